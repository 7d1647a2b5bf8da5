// On the host tests call the ops themselves.
#pragma once
