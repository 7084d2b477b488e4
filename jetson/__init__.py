"""The spoke that runs exported graphs with TensorRT, behind the hub's `Backend` protocol.

No engine has been built or run on a GPU by the authors yet: what the tests run is this code over a
simulated CUDA and TensorRT (docs/jetson.md says what is verified and what is not).

============ =====================================================================================
module       what
============ =====================================================================================
cuda         the little of CUDA that is needed; by cuda_python or cuda_pycuda
trt          the door to TensorRT, and every name of it that is used
backend      an engine as a `Backend`, its profiles and what the hub sees of it
binding      a batch of streams: states on the GPU, two recorded graphs
build        an ONNX file to an engine, on every TensorRT from 8.5 to 11
goldens      `goldens.npz`, and whether an engine agrees with it
store        engines of this machine, and the proof that they were built here
prepare      INT8 and FP16 engines built, proven, and the faster one kept
bench        times of the engine that is there
opening      from a model's path to a backend: what the hub's entry points name
machine      what an engine is bound to
telemetry    power, temperatures, clocks and power mode
verify_gpu   one script for any NVIDIA machine: does all of this hold on a real GPU?
============ =====================================================================================

Nothing here imports tensorrt, cuda-python or pycuda before it is asked to open a GPU.
"""
