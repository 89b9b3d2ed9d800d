"""Libraries for sound."""

from __future__ import annotations

import math
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from usage import Used, usage

RATE = 16_000


def speech(seconds: float) -> torch.Tensor:
    """Vowels with pauses between them: pulses of a voice, whose pitch moves, through the resonances of a mouth. (samples)"""
    time = torch.arange(int(seconds * RATE)) / RATE
    pitch = 120 + 25 * torch.sin(2 * math.pi * 0.7 * time)
    phase = 2 * math.pi * torch.cumsum(pitch, 0) / RATE
    vowels = [(730, 1090, 2440), (270, 2290, 3010), (570, 840, 2410), (300, 870, 2240)]
    sound = torch.zeros_like(time)
    for harmonic in range(1, 30):
        for i, formants in enumerate(vowels):
            gain = sum(1 / (1 + ((harmonic * pitch - formant) / 90) ** 2) for formant in formants) / harmonic**0.5
            spoken = (time * 4).long() % len(vowels) == i
            sound += torch.where(spoken, gain * torch.sin(harmonic * phase), 0)
    aloud = (time % 2.5 < 1.5) * torch.sin(math.pi * (time * 4 % 1)).abs() ** 0.5
    noise = torch.randn(len(time), generator=torch.Generator().manual_seed(0))
    sound = sound * aloud
    return 0.5 * sound / sound.abs().max() + 0.001 * noise


@usage("silero-vad", "get_speech_timestamps(10 s)", "silero_vad")
def silero_vad() -> Used:
    threads = torch.get_num_threads()
    from silero_vad import get_speech_timestamps, load_silero_vad

    torch.set_num_threads(threads)  # the import sets one
    model, audio = load_silero_vad(), speech(10)
    # Below the usual threshold: what is spoken here is no language.
    return Used(model, lambda: get_speech_timestamps(audio, model, threshold=0.2))


@usage("torchcrepe", "predict(2 s)", "torchcrepe")
def torchcrepe_predict() -> Used:
    import torchcrepe

    torchcrepe.load.model("cpu", "tiny")
    model, audio = torchcrepe.infer.model, speech(2)[None]

    def run() -> object:
        torchcrepe.infer.model = model  # where torchcrepe has the one it loaded last
        return torchcrepe.predict(audio, RATE, model="tiny", batch_size=64, decoder=torchcrepe.decode.weighted_argmax)

    return Used(model, run)


@usage("resemblyzer", "embed_utterance(8 s)", "resemblyzer")
def resemblyzer_embed() -> Used:
    from resemblyzer import VoiceEncoder

    encoder, audio = VoiceEncoder("cpu", verbose=False).eval(), speech(8).numpy()
    return Used(encoder, lambda: encoder.embed_utterance(audio))


@usage("speechbrain", "encode_batch(3 s) of ECAPA-TDNN", "speechbrain")
def speechbrain_ecapa() -> Used:
    from speechbrain.inference.classifiers import EncoderClassifier
    from speechbrain.lobes.features import Fbank
    from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN
    from speechbrain.processing.features import InputNormalization

    modules = {
        "compute_features": Fbank(n_mels=80),
        "mean_var_norm": InputNormalization(norm_type="sentence", std_norm=False),
        "embedding_model": ECAPA_TDNN(80, channels=[512, 512, 512, 512, 1536]),
        "classifier": torch.nn.Identity(),
    }
    recogniser = EncoderClassifier(modules, {"label_encoder": None, "sample_rate": RATE}).eval()
    audio = speech(3)[None]
    return Used(recogniser, lambda: recogniser.encode_batch(audio))


@usage("transformers", 'pipeline("automatic-speech-recognition")', "transformers")
def speech_recognition() -> Used:
    import json

    import transformers

    letters = ["<pad>", "<s>", "</s>", "<unk>", "|", *"abcdefghijklmnopqrstuvwxyz'"]
    with TemporaryDirectory() as folder:
        vocabulary = Path(folder) / "vocab.json"
        vocabulary.write_text(json.dumps({letter: i for i, letter in enumerate(letters)}))
        tokenizer = transformers.Wav2Vec2CTCTokenizer(str(vocabulary))
    config = transformers.Wav2Vec2Config(
        vocab_size=len(letters), hidden_size=384, num_hidden_layers=4, num_attention_heads=6, intermediate_size=1536
    )
    recognise = transformers.pipeline(
        "automatic-speech-recognition",
        model=transformers.Wav2Vec2ForCTC(config).eval(),
        tokenizer=tokenizer,
        feature_extractor=transformers.Wav2Vec2FeatureExtractor(),
        device="cpu",
    )
    utterances = [np.array(speech(seconds)) for seconds in (2.0, 2.6, 1.7)]
    return Used(recognise.model, lambda: [recognise(audio.copy()) for audio in utterances])
