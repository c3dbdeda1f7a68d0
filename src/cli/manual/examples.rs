//! Examples of each command, for its help and its manual page.

/// The words of a command, and command lines of it.
pub(super) const EXAMPLES: &[(&str, &[&str])] = &[
    (
        "",
        &[
            "tinkex train chats.jsonl --local --out my-run",
            "tinkex sample 'What can you do?' -m my-run",
            "tinkex checkpoint list -f json",
        ],
    ),
    (
        "train",
        &[
            "tinkex train chats.jsonl -m Qwen/Qwen3-8B --dry-run",
            "tinkex train chats.jsonl -m Qwen/Qwen3-8B --eval-split 0.05 --max-usd 20 --out my-run",
            "tinkex train --resume my-run",
        ],
    ),
    (
        "sample",
        &[
            "tinkex sample 'Why is the sky blue?' -m Qwen/Qwen3-8B -t 0.7",
            "git diff | tinkex sample -m my-run --system 'Write a commit message.'",
            "tinkex sample -i prompts.jsonl -o answers.jsonl -m my-run",
        ],
    ),
    ("chat", &["tinkex chat -m my-run", "tinkex chat --local --system 'Be brief.'"]),
    (
        "eval",
        &[
            "tinkex eval test.jsonl -m Qwen/Qwen3-8B -m my-run",
            "tinkex eval test.jsonl -m my-run --metric exact -f json",
        ],
    ),
    (
        "data check",
        &["tinkex data check train.jsonl", "tinkex data check train.jsonl test.jsonl.gz -m Qwen/Qwen3-8B"],
    ),
    (
        "data show",
        &["tinkex data show -n 3 train.jsonl -m Qwen/Qwen3-8B", "tinkex data show train.jsonl -m my-run"],
    ),
    ("data stats", &["tinkex data stats train.jsonl -m Qwen/Qwen3-8B -f json"]),
    (
        "data convert",
        &[
            "tinkex data convert sharegpt.json --to chat -o train.jsonl",
            "tinkex data convert alpaca.json --data-format completion --to chat > train.jsonl",
        ],
    ),
    ("data split", &["tinkex data split chats.jsonl --eval-split 0.05 -o parts"]),
    ("report", &["tinkex report my-run --open", "tinkex report runs/a runs/b -o comparison.html"]),
    (
        "checkpoint list",
        &[
            "tinkex checkpoint list --by-run",
            "tinkex checkpoint list --older-than 30d --sort size",
            "tinkex checkpoint list --run-id 0a1b2c3d:train:0 -f json",
        ],
    ),
    (
        "checkpoint delete",
        &[
            "tinkex checkpoint delete --older-than 30d --keep-last 1 --dry-run",
            "tinkex checkpoint delete --run-id my-run --type sampler --yes",
        ],
    ),
    ("checkpoint info", &["tinkex checkpoint info tinker://0a1b2c3d:train:0/weights/final"]),
    ("checkpoint publish", &["tinkex checkpoint publish tinker://0a1b2c3d:train:0/sampler_weights/final"]),
    (
        "checkpoint unpublish",
        &["tinkex checkpoint unpublish tinker://0a1b2c3d:train:0/sampler_weights/final"],
    ),
    (
        "checkpoint set-ttl",
        &[
            "tinkex checkpoint set-ttl tinker://0a1b2c3d:train:0/weights/final --ttl 30d",
            "tinkex checkpoint set-ttl tinker://0a1b2c3d:train:0/weights/final --remove",
            "tinkex checkpoint set-ttl --run-id my-run --type training --ttl 7d --dry-run",
        ],
    ),
    (
        "checkpoint download",
        &[
            "tinkex checkpoint download tinker://0a1b2c3d:train:0/sampler_weights/final -o models",
            "tinkex checkpoint download my-run",
        ],
    ),
    (
        "checkpoint copy",
        &["tinkex checkpoint copy tinker://0a1b2c3d:train:0/weights/final --project PROJECT_ID"],
    ),
    (
        "checkpoint push-hf",
        &["tinkex checkpoint push-hf tinker://0a1b2c3d:train:0/sampler_weights/final -r user/name"],
    ),
    ("run list", &["tinkex run list --since 7d", "tinkex run list -c id,name,model,checkpoints --limit 0"]),
    ("run info", &["tinkex run info 0a1b2c3d:train:0 --checkpoints"]),
    ("model list", &["tinkex model list", "tinkex model list qwen --trainable --prices"]),
    ("session list", &["tinkex session list --limit 5"]),
    ("session info", &["tinkex session info SESSION_ID"]),
    ("session search", &["tinkex session search my-run"]),
    ("session assign", &["tinkex session assign SESSION_ID PROJECT_ID"]),
    ("session export-trace", &["tinkex session export-trace SESSION_ID -o trace.pftrace"]),
    (
        "billing usage",
        &["tinkex billing usage 7d", "tinkex billing usage 2026-11-01 2026-11-08 --csv usage.csv"],
    ),
    ("billing checkpoint-storage", &["tinkex billing checkpoint-storage -f json"]),
    ("audit", &["tinkex audit all", "tinkex audit checkpoints --day 2026-11-20 -f jsonl"]),
    ("auth login", &["tinkex auth login", "pass show tinker | tinkex auth login"]),
    ("auth logout", &["tinkex auth logout"]),
    ("auth status", &["tinkex auth status && echo ready"]),
    ("auth whoami", &["tinkex auth whoami -f json"]),
    ("serve", &["tinkex serve --data-dir engine", "tinkex serve --port 0 --any-key --threads 4"]),
    ("doctor", &["tinkex doctor", "tinkex doctor --base-url http://127.0.0.1:8000 -f json"]),
    (
        "completions",
        &[
            "tinkex completions bash > ~/.local/share/bash-completion/completions/tinkex",
            "tinkex completions zsh > ~/.zfunc/_tinkex",
            "tinkex completions fish > ~/.config/fish/completions/tinkex.fish",
        ],
    ),
    (
        "man",
        &[
            "tinkex man train | man -l -",
            "tinkex man checkpoint delete | man -l -",
            "tinkex man ~/.local/share/man/man1",
        ],
    ),
    ("version", &["tinkex version"]),
];
