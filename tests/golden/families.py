"""The renderers that the fixtures are made for, with their vocabulary, template and native renderer."""

from dataclasses import dataclass, field

import answers
import vocabularies
from tinker_cookbook import renderers
from tinker_cookbook.renderers.gpt_oss import GptOssRenderer
from tml_renderers import renderers as native

DATE = "2025-01-01"


@dataclass
class Family:
    """One fixture: a renderer of the cookbook on a vocabulary, and the oracles beside it."""

    file: str
    vocabulary: str
    answers: list
    # Name of the renderer for the cookbook; None if the cookbook has none for this template.
    renderer: str | None = None
    # File of the template and the variables it gets.
    template: str | None = None
    variables: dict = field(default_factory=dict)
    # How the template gets arguments of calls: as an `object` or as a `string`.
    arguments: str = "object"
    # Renderer of tml-renderers, as an expression, and the object.
    native: str | None = None
    # True if the native renderer has a vocabulary of its own, so that its ids must be converted.
    other_vocabulary: bool = False

    def tokenizer(self):
        return vocabularies.load(self.vocabulary)

    def make(self):
        if self.renderer.startswith("gpt_oss") and "no_sysprompt" not in self.renderer:
            effort = self.renderer.split("_")[2]
            return GptOssRenderer(self.tokenizer(), True, effort, current_date=DATE)
        return renderers.get_renderer(self.renderer, self.tokenizer())

    def make_native(self):
        return eval(self.native, {"native": native, "DATE": DATE}) if self.native else None


QWEN3 = "Qwen-Qwen3-0.6B.jinja"
QWEN3_5 = "Qwen3.5-4B.jinja"
LLAMA3 = "meta-llama-Llama-3.1-8B-Instruct.jinja"
GPT_OSS = "openai-gpt-oss-120b.jinja"
KIMI = "Kimi-K2-Thinking.jinja"

# DeepSeek has no template here: the copy of V3.1 in llama.cpp differs from the model's own one.
FAMILIES = [
    Family("role_colon_llama3", "llama3", answers.role_colon("<|eot_id|>"), "role_colon"),
    Family("role_colon_qwen3", "qwen3", answers.role_colon("<|im_end|>"), "role_colon"),
    Family("llama3", "llama3", answers.LLAMA3, "llama3", LLAMA3),
    Family(
        "qwen3",
        "qwen3",
        answers.QWEN3,
        "qwen3",
        QWEN3,
        {"enable_thinking": True},
        native="native.Qwen3()",
    ),
    Family(
        "qwen3_disable_thinking",
        "qwen3",
        answers.QWEN3,
        "qwen3_disable_thinking",
        QWEN3,
        {"enable_thinking": False},
        native="native.Qwen3.disable_thinking()",
    ),
    Family("qwen3_instruct", "qwen3", answers.QWEN3, "qwen3_instruct", native="native.Qwen3.instruct()"),
    Family("qwen2_5", "qwen3", [], template="Qwen-Qwen2.5-7B-Instruct.jinja"),
    Family(
        "qwen3_5",
        "qwen3",
        answers.QWEN3_5,
        "qwen3_5",
        QWEN3_5,
        {"enable_thinking": True},
        native="native.Qwen35()",
        other_vocabulary=True,
    ),
    Family(
        "qwen3_5_disable_thinking",
        "qwen3",
        answers.QWEN3_5,
        "qwen3_5_disable_thinking",
        QWEN3_5,
        {"enable_thinking": False},
        native="native.Qwen35.disable_thinking()",
        other_vocabulary=True,
    ),
    Family(
        "deepseekv3",
        "deepseek",
        answers.DEEPSEEK,
        "deepseekv3",
        native="native.DeepSeekV31()",
    ),
    Family(
        "deepseekv3_thinking",
        "deepseek",
        answers.DEEPSEEK,
        "deepseekv3_thinking",
        native="native.DeepSeekV31.thinking()",
    ),
    Family("kimi_k2", "kimi", answers.KIMI, "kimi_k2", KIMI, arguments="string", native="native.KimiK2()"),
    Family("kimi_k25", "kimi_k25", answers.KIMI, "kimi_k25", native="native.KimiK25()"),
    Family(
        "kimi_k25_disable_thinking",
        "kimi_k25",
        answers.KIMI,
        "kimi_k25_disable_thinking",
        native="native.KimiK25.disable_thinking()",
    ),
    Family("gpt_oss_no_sysprompt", "o200k", answers.HARMONY, "gpt_oss_no_sysprompt"),
    *(
        Family(
            f"gpt_oss_{effort}_reasoning",
            "o200k",
            answers.HARMONY if effort == "medium" else [],
            f"gpt_oss_{effort}_reasoning",
            GPT_OSS,
            {"reasoning_effort": effort},
            native=f"native.GptOss.{effort}(current_date=DATE)",
        )
        for effort in ("low", "medium", "high")
    ),
]
