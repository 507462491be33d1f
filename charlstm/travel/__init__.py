"""Export and import: a model's net in the files of PyTorch, Keras and ONNX, or as JSON, and back.

net.py has what travels, a net with its vocabulary; tensors.py, keras.py and onnx.py are each one way to write it down;
files.py chooses among them, and turns what comes back into a run.
"""
