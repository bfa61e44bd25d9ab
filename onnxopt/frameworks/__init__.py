"""Models as their frameworks run them (PyTorch, scikit-learn, Keras, Hugging Face), exported and compared."""
