"""The last step: a blessed model becomes a version that TensorFlow Serving finds, whole or not at all."""
