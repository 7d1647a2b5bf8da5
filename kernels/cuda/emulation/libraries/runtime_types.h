// Types of the CUDA run time that NVIDIA's libraries use in their interfaces, for the stand-ins.
#pragma once

struct CUstream_st;
using cudaStream_t = CUstream_st*;

enum cudaDataType_t { CUDA_R_32F = 0, CUDA_R_16F = 2, CUDA_R_16BF = 14 };
