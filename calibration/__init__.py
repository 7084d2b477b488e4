"""The spoke that quantises: INT8 models from an exported float graph.  Never torch.

One calibration gives one `ranges.json`; every INT8 file is derived from it and the float graph.

=========== ==================================================================================
module      what
=========== ==================================================================================
graph       the float graph as its linear layers, which are what is quantised
histogram   magnitudes of one tensor, gathered in bounded memory
observe     runs streams through the graph and gathers what enters its linear layers
methods     histograms to ranges: greatest, percentiles, least squared error, least divergence
smooth      loud channels of activations move into weights (SmoothQuant)
bias        the mean error of rounding is taken back from biases
choose      methods, changes to the graph and layers that stay float, by what the output loses
ranges      `ranges.json`
goldens     what the float model answers, for the self-test of a device
emit        a graph and its ranges to INT8 files, for onnxruntime and TensorRT
qdq         the pairs of rounding and unrounding that TensorRT reads
cache       `calibration.cache`, for TensorRT's own INT8 of the float graph
lint        what TensorRT would refuse in such a file
census      which kernels onnxruntime really picks for a file
compare     an INT8 file against the float graph, streaming
calibrate   all of it, in order
report      what a person wants to know about the result, with pictures
=========== ==================================================================================
"""
