"""Memory of this process, as `sepia bench step` measures its own."""


def _status(field):
    with open("/proc/self/status", encoding="ascii") as file:
        for line in file:
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    return 0


def resident():
    return _status("VmRSS")


def peak_resident():
    return _status("VmHWM")


def reset_peak():
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
            file.write("5")
    except OSError:
        pass  # the peak goes on
