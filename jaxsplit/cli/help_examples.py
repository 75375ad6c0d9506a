"""Examples in the `--help` of each command; a test parses every line."""

#: Command → its examples, one a line.
EXAMPLES = {
    "quickstart": """\
jaxsplit quickstart
jaxsplit quickstart --smoke --out look
""",
    "train": """\
jaxsplit train --config fashion_mnist --workdir runs/fashion_mnist
jaxsplit train --config fashion_mnist:smoke --workdir runs/look --config.learning_rate=1e-3
jaxsplit train --config my_experiment.py --workdir /content/drive/MyDrive/runs/mine
""",
    "evaluate": """\
jaxsplit evaluate --family runs/fashion_mnist/family --limit 500
jaxsplit evaluate --family runs/mine/family --data folder:photos --rates r1,r3 --out runs/measured
jaxsplit evaluate --family resnet8_small-fashion_mnist/stage1.block1 --json
""",
    "compare": """\
jaxsplit compare runs/paper runs/ours
jaxsplit compare runs/paper runs/ours --from-drop 6 --to-drop 0.5
jaxsplit compare old/curve.json new/curve.json --method akima --json
""",
    "plan": """\
jaxsplit plan resnet50
jaxsplit plan resnet50 --cut stage3.block5 --plot plan.png
jaxsplit plan resnet50 --device-gmacs 5 --server-gmacs 500 --bandwidth-mbps 10 --rtt-ms 20
""",
    "design": """\
jaxsplit design --config resnet20_design --workdir runs/design
jaxsplit design --config resnet20_design --workdir runs/short --config.minutes=5.0
""",
    "pack": """\
jaxsplit pack --family runs/mine/family --data embedded -o packed --card license=MIT
jaxsplit pack --family packed -o again --card limits="Grey images of clothing."
""",
    "encode": """\
jaxsplit encode shirt.png boot.png --family runs/mine/family --rate r3 -o images.jspl
jaxsplit encode photos/*.jpg --family runs/mine/family --max-bytes 60 -o images.jspl
""",
    "decode": """\
jaxsplit decode images.jspl --family runs/mine/family
jaxsplit decode images.jspl --family runs/mine/family --json
""",
    "info": """\
jaxsplit info
jaxsplit info runs/mine/family
jaxsplit info images.jspl
""",
    "import backbone": """\
jaxsplit import backbone resnet18 resnet18.pth -o resnet18.safetensors
jaxsplit import backbone resnet50 weights.npz -o ours.safetensors --classes names.txt
""",
    "import spic": """\
jaxsplit import spic spic/ -o families/spic
jaxsplit import spic spic/ -o families/s3 --cut S3 --fit-on folder:images --weights resnet50.pth
""",
}


def epilog(command: str, note: str = "") -> str:
    """Formats the examples of a command and a note as the end of its help.

    A word before other commands has the examples of all of them.

    >>> epilog("info").splitlines()[:2]
    ['examples:', '  jaxsplit info']
    >>> len(epilog("import").splitlines())
    5
    """
    texts = [text for name, text in EXAMPLES.items() if f"{name} ".startswith(f"{command} ")]
    lines = [f"  {line}" for text in texts for line in text.splitlines()]
    shown = "\n".join(["examples:", *lines]) if lines else ""
    return "\n\n".join(filter(None, (shown, note)))
