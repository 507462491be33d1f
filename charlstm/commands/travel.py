"""Commands that let models travel: export and import."""

import click

from charlstm.commands.layout import Place, word_option
from charlstm.commands.options import CHECKPOINT, RUN


@click.command(short_help="Write a net for PyTorch, Keras, ONNX, or as JSON.")
@RUN
@word_option("--to", choices="torch|keras|onnx|json", required=True, help="the program that will read the file")
@click.option(
    "-o", "--out", metavar="FILE",
    help="the file to write; for --to keras, .keras has a model around the weights, .weights.h5 the weights alone "
    "[RUN-net.safetensors, .keras, .onnx or .json, in RUN's folder]",
)  # fmt: skip
@click.option("--member", type=int, default=1, show_default=True, help="which net of a run that trained --members")
@CHECKPOINT
def export(run: str, to: str, out: str | None, checkpoint: str, member: int) -> int:
    """Write the net of RUN, a run folder or a checkpoint file, for another program, and print the name of the file.

    \b
    charlstm export runs/book --to torch    names that nn.LSTM and nn.Linear load
    charlstm export runs/book --to keras    a model that keras.saving.load_model loads
    charlstm export runs/book --to onnx     ids and a state in, logits and the state out
    charlstm export runs/book --to json     the weights as nested lists

    The file holds one net alone, its vocabulary and its sizes: no optimizer state, no n-gram, no training state. The
    default RUN is the newest run in runs/. --to onnx needs onnx, --to keras h5py: pip install 'charlstm[export]'.
    """
    from charlstm.travel import files

    file, said = files.export(run, to, out, checkpoint, member)
    click.echo(f"net     {said}", err=True)
    click.echo(file)
    return 0


@click.command("import", short_help="Make a run of a net from PyTorch, Keras, ONNX or JSON.")
@click.argument("file", type=Place())
@click.option("-o", "--out", metavar="DIR", help="the run folder to make [runs/NAME after the name of FILE]")
@click.option(
    "--vocabulary", metavar="FILE",
    help="a JSON list of the characters in the order of their ids, or an object with the id of each [FILE's own]",
)  # fmt: skip
def import_net(file: str, out: str | None, vocabulary: str | None) -> int:
    """Make a run of the net in FILE, and print its folder; sample, score and train --from take it.

    \b
    charlstm import book-net.keras
    charlstm import lstm.safetensors --vocabulary vocabulary.json

    FILE is what export writes, or a file by others: .safetensors, .pt or .pth with the state_dict of an optional
    nn.Embedding, one nn.LSTM, nn.GRU or nn.RNN and an nn.Linear; .keras or .weights.h5 of Keras 3; .onnx; .json. The
    ending says what it is. A vocabulary in another order than ours is sorted, and the weights with it.
    """
    from charlstm.travel import files

    characters = None if vocabulary is None else files.characters_in(vocabulary)
    click.echo(files.imported(file, out, characters))
    return 0
