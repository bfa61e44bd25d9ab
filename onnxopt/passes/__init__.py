"""Graph passes: values that change a model, a pipeline that runs and verifies them, a registry that names them."""
