"""Trains the models of ``cases`` on scikit-learn's digits: ``python -m ... FOLDER``."""

import sys
from pathlib import Path

import keras
import numpy as np
from keras import layers
from sklearn.datasets import load_digits

EPOCHS, BATCH = 8, 64


def main(folder: Path) -> None:
    keras.utils.set_random_seed(0)
    digits = load_digits()
    images, labels = (digits.images / 16).astype(np.float32), digits.target
    cnn = _trained(_cnn(), images[..., None], labels)
    cnn.save(folder / "cnn.keras")
    cnn.save(folder / "cnn.h5")
    if keras.backend.backend() == "tensorflow":
        cnn.export(folder / "saved", verbose=False)
    _trained(_lstm(), images, labels).save(folder / "lstm.keras")
    _trained(_transformer(), digits.data.astype(np.int32), labels).save(folder / "transformer.keras")
    model = keras.Sequential([keras.Input((4,)), layers.Lambda(lambda x: 2 * x), layers.Dense(2)])
    model.save(folder / "lambda.keras")


def _trained(model: keras.Model, inputs: np.ndarray, labels: np.ndarray) -> keras.Model:
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(inputs[:1400], labels[:1400], epochs=EPOCHS, batch_size=BATCH, verbose=0)
    print(model.name, model.evaluate(inputs[1400:], labels[1400:], verbose=0)[1])
    return model


def _cnn() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(16, 3, padding="same", activation="relu"),
            layers.BatchNormalization(),
            layers.MaxPooling2D(),
            layers.DepthwiseConv2D(3, padding="same"),
            layers.Conv2D(32, 3, strides=2, padding="same", activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dropout(0.2),
            layers.Dense(10, activation="softmax"),
        ]
    )


def _lstm() -> keras.Model:
    rows = keras.Input((None, 8), name="rows")
    hidden = layers.Bidirectional(layers.LSTM(24, return_sequences=True))(rows)
    return keras.Model(rows, layers.Dense(10, activation="softmax", name="digit")(layers.GRU(16)(hidden)))


def _transformer() -> keras.Model:
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    hidden = layers.Embedding(17, 16)(tokens)
    hidden = layers.LayerNormalization()(hidden + layers.MultiHeadAttention(2, 8)(hidden, hidden))
    pooled = layers.GlobalAveragePooling1D()(hidden)
    return keras.Model(tokens, layers.Dense(10, activation="softmax", name="digit")(pooled))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
