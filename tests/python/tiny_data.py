"""Writes small data sets by the names of public ones into the working directory, where the library `datasets` finds
them: a folder whose name is the name of the data set comes before the hub.
"""

import ast
import importlib.util
import json
import os
import random

WORDS = "red green blue warm cold big small old new round".split()
THINGS = "apple house river stone bird tree boat cloud lamp road".split()
# What the recipe rl_loop adds to each question.
SUFFIX = " Provide a numerical answer without units, written inside \\boxed{}."


def birds(source):
    """A question and the number that answers it."""
    first, second = source.randrange(3), source.randrange(3)
    return f"There are {first} birds and {second} more come. How many are there?", first + second


def example():
    """The question and the answer that rl_loop puts before each question, read from its source."""
    path = importlib.util.find_spec("tinker_cookbook.recipes.rl_loop").origin
    with open(path, encoding="utf-8") as file:
        nodes = ast.walk(ast.parse(file.read()))
    lists = [it for it in nodes if isinstance(it, ast.Assign) and ast.unparse(it.targets[0]) == "convo_prefix"]
    question, answer = [dict(zip([key.value for key in it.keys], it.values)) for it in lists[0].value.elts]
    return question["content"].left.value + SUFFIX, answer["content"].value


def conversation(source, shown):
    """A conversation in the format of HuggingFaceH4/no_robots, as rl_loop has it, with an example before the question.

    Half of the answers are wrong, so that a model that has learned them is sometimes rewarded and sometimes not.
    """
    question, answer = birds(source)
    return [
        {"role": "user", "content": shown[0]},
        {"role": "assistant", "content": shown[1]},
        {"role": "user", "content": question + SUFFIX},
        {"role": "assistant", "content": f"\\boxed{{{answer + source.randrange(2)}}}"},
    ]


def problem(source):
    """The same problems in the format of openai/gsm8k."""
    question, answer = birds(source)
    return {"question": question, "answer": f"They are {answer}.\n#### {answer}"}


def addition(source):
    """A conversation as the environment `arithmetic` of math_rl has it."""
    first, second = source.randrange(101), source.randrange(101)
    return [
        {"role": "user", "content": "What is 4 + 5?"},
        {"role": "assistant", "content": "9"},
        {"role": "user", "content": f"What is {first} + {second}?"},
        {"role": "assistant", "content": str(first + second)},
    ]


def preference(source):
    """A pair of conversations in the format of Anthropic/hh-rlhf; the first answer is the better one."""
    claim = f"the {source.choice(THINGS)} is {source.choice(WORDS)}."
    question = f"\n\nHuman: Say that {claim}\n\nAssistant:"
    return {"chosen": f"{question} Yes, {claim}", "rejected": f"{question} No, I say nothing about it."}


def write(folder, name, splits, config="default"):
    """Writes one data set; `splits` has the rows of each split."""
    home = os.path.join(folder, name)
    os.makedirs(home, exist_ok=True)
    files = [f"  - split: {split}\n    path: {split}.jsonl\n" for split in splits]
    with open(os.path.join(home, "README.md"), "w", encoding="utf-8") as file:
        file.write(f"---\nconfigs:\n- config_name: {config}\n  data_files:\n{''.join(files)}---\n")
    for split, rows in splits.items():
        with open(os.path.join(home, f"{split}.jsonl"), "w", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)


def write_all(folder):
    """Writes all data sets; returns texts with the words that occur in them."""
    source = random.Random(1)
    shown = example()
    chats = [{"messages": conversation(source, shown)} for _ in range(1344)]
    write(folder, "HuggingFaceH4/no_robots", {"train": chats[64:], "test": chats[:64]})
    sums = [{"messages": addition(source)} for _ in range(2048)]
    with open(os.path.join(folder, "sums.jsonl"), "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in sums)
    problems = [problem(source) for _ in range(80)]
    write(folder, "openai/gsm8k", {"train": problems[16:], "test": problems[:16]}, config="main")
    pairs = [preference(source) for _ in range(608)]
    write(folder, "Anthropic/hh-rlhf", {"train": pairs[32:], "test": pairs[:32]})
    # The data sets of the recipes for distillation, which only the cookbook's own tests run.
    write(folder, "allenai/tulu-3-sft-mixture", {"train": sums[:256]})
    write(folder, "zwhe99/DeepMath-103K", {"train": problems, "test": problems[:16]})
    talks = [[{"from": ["human", "gpt"][i % 2], "value": it["content"]} for i, it in enumerate(row["messages"])]
             for row in sums[:256]]
    write(folder, "open-thoughts/OpenThoughts3-1.2M", {"train": [{"conversations": talk} for talk in talks]})
    spoken = [message["content"] for chat in chats[:64] + sums[:64] for message in chat["messages"]]
    return spoken + [pair["rejected"] for pair in pairs[:64]]
