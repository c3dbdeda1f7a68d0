use std::io::Cursor;

use super::*;
use crate::chat::{Example, Message, Part, Reduction};
use crate::types::ModelInput;

/// All records of a file, with errors as text.
fn read<T: Record>(file: impl AsRef<[u8]>) -> Vec<Result<T, String>> {
    let records = Jsonl::<_, T>::new(Cursor::new(file.as_ref().to_vec()), "x.jsonl");
    records.map(|record| record.map_err(|error| error.message().to_owned())).collect()
}

/// The error of a file of one broken line.
fn problem<T: Record>(line: &str) -> String {
    match read::<T>(line).pop() {
        Some(Err(text)) => text,
        _ => panic!("{line} was accepted"),
    }
}

fn in_user(content: &str) -> String {
    format!(r#"{{"messages":[{{"role":"user","content":{content}}}]}}"#)
}

fn in_call(call: &str) -> String {
    format!(r#"{{"messages":[{{"role":"assistant","tool_calls":[{call}]}}]}}"#)
}

#[test]
fn each_broken_chat_has_an_error_with_its_place() {
    let message = |fields: &str| format!(r#"{{"messages":[{{{fields}}}]}}"#);
    for (line, expected) in [
        ("nonsense".into(), "not valid JSON"),
        (r#"{"messages":"#.into(), "not valid JSON"),
        (r#"{"messages":[]} {}"#.into(), "not valid JSON"),
        ("[1]".into(), "must be an object, not a list"),
        ("{}".into(), "the keys found: none; accepted: messages"),
        (r#"{"message":[]}"#.into(), "the keys found: message; accepted: messages"),
        (r#"{"messages":[],"conversations":[]}"#.into(), "the keys found: messages, conversations"),
        (r#"{"messages":[]}"#.into(), "messages: has no messages"),
        (r#"{"messages":"hi"}"#.into(), "messages: must be a list, not a text"),
        (r#"{"messages":[1]}"#.into(), "messages[0]: must be an object, not a number"),
        (r#"{"messages":[],"extra":1}"#.into(), "unknown key \"extra\""),
        (r#"{"messages":[],"messages":[]}"#.into(), "has the key \"messages\" twice"),
        (message(r#""content":"x""#), "messages[0]: the key \"role\" is missing"),
        (message(r#""role":"","content":"x""#), "messages[0].role: must not be empty"),
        (message(r#""role":1,"content":"x""#), "messages[0].role: must be a text, not a number"),
        (message(r#""role":"user""#), "messages[0]: has neither content nor tool calls"),
        (message(r#""role":"user","content":null"#), "messages[0]: has neither content nor tool calls"),
        (message(r#""role":"user","content":"x","colour":1"#), "messages[0]: unknown key \"colour\""),
        (message(r#""role":"user","content":"x","weight":2"#), "messages[0].weight: must be 0 or 1, not 2"),
        (
            message(r#""role":"user","content":"x","weight":true"#),
            "messages[0].weight: must be 0 or 1, not true",
        ),
        (
            message(r#""role":"user","content":"x","trainable":1"#),
            "messages[0].trainable: must be true or false",
        ),
        (
            message(r#""role":"a","content":"x","weight":1,"trainable":true"#),
            "has both \"weight\" and \"trainable\"",
        ),
        (message(r#""role":"a","content":"x","thinking":"y","reasoning_content":"y""#), "has both"),
        (message(r#""role":"user","content":"\ud800""#), "messages[0].content: has escapes"),
        (in_user("3"), "messages[0].content: must be a text, a list of parts or null, not a number"),
        (in_user(r#"[{"text":"x"}]"#), "messages[0].content[0]: the key \"type\" is missing"),
        (in_user(r#"[{"type":"video"}]"#), "messages[0].content[0].type: unknown type \"video\""),
        (in_user(r#"[{"type":"text","text":1}]"#), "messages[0].content[0].text: must be a text"),
        (in_user(r#"[{"type":"image","image":"http://x"}]"#), "content[0].image: must start with"),
        (in_user(r#"[{"type":"image","image":"data:image/png;base64,?"}]"#), "not valid base64"),
        (
            in_call(r#"{"function":{"arguments":"{}"}}"#),
            "tool_calls[0].function: the key \"name\" is missing",
        ),
        (in_call(r#"{"function":{"name":"f"}}"#), "tool_calls[0].function: the key \"arguments\" is missing"),
        (in_call(r#"{"function":{"name":"f","arguments":1}}"#), "arguments: must be an object, or a text"),
        (in_call(r#"{"function":{"name":"f","arguments":"{"}}"#), "arguments: the text is not valid JSON"),
        (
            in_call(r#"{"function":{"name":"f","arguments":"[]"}}"#),
            "arguments: the text must be a JSON object",
        ),
        (
            in_call(r#"{"function":{"name":"f","arguments":{"a":1,"a":2}}}"#),
            "arguments: has the key \"a\" twice",
        ),
        (in_call(r#"{"type":"x","function":{"name":"f","arguments":{}}}"#), "type: must be \"function\""),
        (
            r#"{"messages":[{"role":"u","content":"x"}],"tools":[{"description":"d"}]}"#.into(),
            "tools[0]: the key",
        ),
        (r#"{"conversations":[{"from":"cat","value":"x"}]}"#.into(), "[0].from: unknown speaker \"cat\""),
        (r#"{"conversations":[{"from":"gpt"}]}"#.into(), "conversations[0]: the key \"value\" is missing"),
        (r#"{"prompt":"x","completion":"y"}"#.into(), "prompt: must be a list of messages"),
        (r#"{"prompt":[{"role":"u","content":"x"}]}"#.into(), "the key \"completion\" is missing"),
    ] {
        let text = problem::<Conversation>(&line);
        assert!(text.starts_with("x.jsonl:1") && text.contains(expected), "{line}: {text}");
    }
}

#[test]
fn each_broken_line_of_the_other_kinds_has_an_error_with_its_place() {
    let pair =
        |prompt: &str, a: &str, b: &str| format!(r#"{{"prompt":{prompt},"chosen":{a},"rejected":{b}}}"#);
    for (line, expected) in [
        (pair("1", r#""a""#, r#""b""#), "prompt: must be a text or a list of messages"),
        (pair(r#""p""#, "[]", r#""b""#), "chosen: has no messages"),
        (r#"{"chosen":"a"}"#.into(), "the key \"rejected\" is missing"),
        (r#"{"prompt":"a"}"#.into(), "the keys found: prompt; accepted: chosen, rejected"),
        (r#"{"comparison":{},"label":"A","chosen":1}"#.into(), "accepted: chosen, rejected"),
        (r#"{"comparison":{},"label":"C"}"#.into(), "label: must be \"A\", \"B\" or \"Tie\", not \"C\""),
        (r#"{"comparison":{},"label":"A"}"#.into(), "comparison: the key \"prompt_conversation\" is missing"),
    ] {
        let text = problem::<Preference>(&line);
        assert!(text.starts_with("x.jsonl:1") && text.contains(expected), "{line}: {text}");
    }
    for (line, expected) in [
        (r#"{"completion":"x"}"#, "the keys found: completion; accepted: prompt and completion"),
        (r#"{"prompt":"x","completion":""}"#, "completion: must not be empty"),
        (r#"{"prompt":[],"completion":"x"}"#, "prompt: must be a text; read messages as"),
    ] {
        let text = problem::<PromptCompletion>(line);
        assert!(text.contains(expected), "{line}: {text}");
    }
    for (line, expected) in [
        (r#"{"tokens":[1],"input_ids":[1]}"#, "accepted: tokens and weights"),
        (r#"{"tokens":[],"weights":[]}"#, "tokens: must not be empty"),
        (r#"{"tokens":[1,2],"weights":[1]}"#, "weights: has 1 values for 2 tokens"),
        (r#"{"tokens":[-1],"weights":[1]}"#, "tokens[0]: must be a token id from 0"),
        (r#"{"tokens":[1.5],"weights":[1]}"#, "tokens[0]: must be a token id from 0"),
        (r#"{"tokens":[3000000000],"weights":[1]}"#, "tokens[0]: must be a token id from 0"),
        (r#"{"tokens":[1],"weights":[-1]}"#, "weights[0]: must be a number of at least 0, not -1"),
        (r#"{"tokens":[1],"weights":[1e39]}"#, "weights[0]: must be a number of at least 0, not 1e39"),
        (r#"{"input_ids":[1],"labels":[2]}"#, "labels[0]: must be -100 or the token id 1, not 2"),
    ] {
        let text = problem::<WeightedTokens>(line);
        assert!(text.contains(expected), "{line}: {text}");
    }
    assert!(problem::<Text>(r#"{"text":""}"#).contains("text: must not be empty"));
}

#[test]
fn a_line_that_is_read_by_itself_names_the_line_in_errors() {
    let error = Text::from_line("nonsense").unwrap_err();
    assert!(error.to_string().contains("line: not valid JSON"), "{error}");
    assert_eq!(Conversation::from_line("{}").unwrap_err().violation().unwrap().path, "line");
    assert!(problem::<Text>("{}").contains("x.jsonl:1: the key \"text\" is missing"));
}

#[test]
fn keys_of_data_sets_that_say_nothing_about_what_is_trained_are_passed_over() {
    let chat = |fields: &str, more: &str| {
        format!(r#"{{"messages":[{{"role":"assistant","content":"x"{fields}}}]{more}}}"#)
    };
    let plain = read::<Conversation>(chat("", "")).pop().unwrap().unwrap();
    for (fields, more) in [
        ("", r#","parallel_tool_calls":false,"id":7"#),
        (r#","refusal":null,"function_call":null"#, r#","source":"web","prompt_id":"p""#),
    ] {
        assert_eq!(read::<Conversation>(chat(fields, more)).pop().unwrap().unwrap(), plain);
    }
    let pair = r#"{"prompt_id":"1","prompt":"p","chosen":"a","rejected":"b","score_chosen":9,"score_rejected":1,"messages":[]}"#;
    assert!(read::<Preference>(pair)[0].is_ok());
    let tokens = |mask: &str| {
        let line = format!(r#"{{"input_ids":[1,2],"labels":[-100,2],"attention_mask":{mask}}}"#);
        read::<WeightedTokens>(line).pop().unwrap()
    };
    assert_eq!(tokens("[1,1]").unwrap().tokens, [1, 2]);
    assert!(tokens("[1,0]").unwrap_err().contains("attention_mask[1]: must be 1, not 0; leave padding out"));
    // What says something is an error that names the way to read the line nevertheless.
    let error = problem::<Conversation>(&chat(r#","refusal":"No.""#, ""));
    assert!(
        error.contains("messages[0]: unknown key \"refusal\"") && error.contains("ignore_unknown_keys"),
        "{error}"
    );
}

#[test]
fn a_reader_that_ignores_unknown_keys_reads_the_others() {
    let line = r#"{"prompt":"q","messages":[{"role":"user","content":"q","colour":1},
        {"role":"assistant","content":"a"}],"language":"en"}"#
        .replace('\n', " ");
    assert!(problem::<Conversation>(&line).contains("unknown key \"prompt\""));
    let mut records = Jsonl::<_, Conversation>::new(line.as_bytes(), "x").ignore_unknown_keys(true);
    assert_eq!(records.next().unwrap().unwrap().messages[1].text(), "a");
    let mut broken = Jsonl::<_, Conversation>::new(&b"{\"text\":1}"[..], "x").ignore_unknown_keys(true);
    assert!(broken.next().unwrap().unwrap_err().to_string().contains("x:1: the keys found: text"));
}

#[test]
fn a_message_that_says_whether_it_is_trained_keeps_that_beside_a_prompt() {
    let line = r#"{"prompt":[{"role":"user","content":"q"},{"role":"assistant","content":"a","weight":1}],"completion":
        [{"role":"assistant","content":"b","weight":0},{"role":"assistant","content":"c"}]}"#
        .replace('\n', " ");
    let conversation = read::<Conversation>(line).pop().unwrap().unwrap();
    let flags: Vec<_> = conversation.messages.iter().map(|message| message.trainable).collect();
    assert_eq!(flags, [Some(false), Some(true), Some(false), Some(true)]);
}

#[test]
fn answers_that_repeat_the_prompt_are_read_without_it() {
    let (q, r) = (r#"{"role":"user","content":"q"}"#, r#"{"role":"user","content":"r"}"#);
    let (a, b) = (r#"{"role":"assistant","content":"a"}"#, r#"{"role":"assistant","content":"b"}"#);
    let read_pair = |prompt: &str, chosen: &[&str], rejected: &[&str]| {
        let (chosen, rejected) = (chosen.join(","), rejected.join(","));
        let line = format!(r#"{{"prompt":{prompt},"chosen":[{chosen}],"rejected":[{rejected}]}}"#);
        let pair = read::<Preference>(line).pop().unwrap()?;
        let texts = |list: &[Message]| list.iter().map(Message::text).collect::<Vec<_>>().join(" ");
        Ok::<_, String>([&pair.prompt, &pair.completion_a, &pair.completion_b].map(|list| texts(list)))
    };
    let list = format!("[{q}]");
    for (prompt, chosen, rejected, expected) in [
        (r#""q""#, &[q, a][..], &[q, b][..], ["q", "a", "b"]),
        (&list, &[q, a], &[q, b], ["q", "a", "b"]),
        (&list, &[q, a], &[b], ["q", "a", "b"]),
        (&list, &[a], &[b], ["q", "a", "b"]),
        (&list, &[r, a], &[r, b], ["q", "r a", "r b"]),
        // The prompt is one question of a longer conversation.
        (r#""q""#, &[r, a, q, a], &[r, a, q, b], ["r a q", "a", "b"]),
        (r#""q""#, &[q, a, r, a], &[q, a, r, b], ["q a r", "a", "b"]),
    ] {
        assert_eq!(
            read_pair(prompt, chosen, rejected).unwrap(),
            expected,
            "{prompt} {chosen:?} {rejected:?}"
        );
    }
    let error = read_pair(&list, &[q, a], &[q]).unwrap_err();
    assert!(error.contains("rejected: repeats the prompt and has no answer after it"), "{error}");
}

#[test]
fn a_file_may_have_a_byte_order_mark_crlf_blank_lines_and_lacks_a_last_newline() {
    let file = b"\xef\xbb\xbf{\"text\":\"a\"}\r\n\r\n  \n{\"text\":\"b\"}\n{\"text\":\"c\"}";
    let texts: Vec<String> = read::<Text>(file).into_iter().map(|text| text.unwrap().text).collect();
    assert_eq!(texts, ["a", "b", "c"]);
    assert!(read::<Text>("").is_empty());
}

#[test]
fn a_bad_line_is_one_error_and_a_line_that_is_too_long_ends_the_records() {
    let found = read::<Text>(b"{\"text\":\"a\"}\n{\"text\":\"\xff\"}\n{\"text\":\"c\"}\n");
    assert!(found[1].as_ref().unwrap_err().contains("x.jsonl:2: not valid UTF-8 after 9 bytes"), "{found:?}");
    assert_eq!(found[2].as_ref().unwrap().text, "c");
    let file = "{\"text\":\"a\"}\n{\"text\":\"123456789\"}\n{\"text\":\"b\"}\n";
    let records = Jsonl::<_, Text>::new(Cursor::new(file), "y").with_max_line_bytes(12);
    let found: Vec<_> = records.map(|record| record.map_err(|error| error.to_string())).collect();
    assert_eq!(found.len(), 2);
    assert!(found[1].as_ref().unwrap_err().contains("y:2: the line is longer than 12 bytes"), "{found:?}");
}

#[test]
fn the_same_conversation_is_read_from_every_format() {
    let [openai, trl, sharegpt] = [
        r#"{"messages":[{"role":"user","content":"q","weight":0},{"role":"assistant","content":"a","trainable":true}]}"#,
        r#"{"prompt":[{"role":"user","content":"q"}],"completion":[{"role":"assistant","content":"a"}]}"#,
        r#"{"conversations":[{"from":"human","value":"q","weight":0},{"from":"gpt","value":"a","weight":1}]}"#,
    ]
    .map(|line| read::<Conversation>(line).pop().unwrap().unwrap());
    assert_eq!(openai, trl);
    assert_eq!(openai, sharegpt);
    assert_eq!(openai.messages[0].trainable, Some(false));
}

#[test]
fn if_some_messages_say_whether_they_are_trained_the_others_are_if_they_are_answers() {
    let line = r#"{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a","weight":0},
        {"role":"user","content":"q"},{"role":"assistant","content":"b"}]}"#
        .replace('\n', " ");
    let conversation = read::<Conversation>(line).pop().unwrap().unwrap();
    let flags: Vec<_> = conversation.messages.iter().map(|message| message.trainable).collect();
    assert_eq!(flags, [Some(false), Some(false), Some(false), Some(true)]);
}

#[test]
fn tools_and_calls_keep_the_order_of_their_keys() {
    let line = r#"{"messages":[{"role":"assistant","content":"x","reasoning_content":"why","tool_calls":
        [{"id":"1","type":"function","function":{"name":"f","arguments":{"b":1,"a":2}}}]}],
        "tools":[{"type":"function","function":{"name":"f","parameters":{"z":1,"a":2}}}]}"#
        .replace('\n', " ");
    let conversation = read::<Conversation>(line).pop().unwrap().unwrap();
    assert_eq!(conversation.messages[0].role, "system", "the tools stand in a system message");
    assert_eq!(conversation.messages[1].tool_calls[0].arguments, r#"{"b":1,"a":2}"#);
    assert_eq!(conversation.messages[1].content[0], Part::Thinking("why".into()));
    assert_eq!(conversation.messages[0].tools[0].parameters, r#"{"z":1,"a":2}"#);
}

#[test]
fn a_tie_is_never_a_preference() {
    let line = |label: &str| {
        let side = |text: &str| format!(r#"[{{"role":"assistant","content":"{text}"}}]"#);
        format!(
            r#"{{"comparison":{{"prompt_conversation":{},"completion_A":{},"completion_B":{}}},"label":"{label}"}}"#,
            side("p"),
            side("a"),
            side("b")
        )
    };
    let chosen = |label: &str| {
        let pair = read::<Preference>(line(label)).pop().unwrap().unwrap();
        pair.chosen_and_rejected().map(|(chosen, rejected)| (chosen[0].text(), rejected[0].text()))
    };
    assert_eq!(chosen("A"), Some(("a".into(), "b".into())));
    assert_eq!(chosen("B"), Some(("b".into(), "a".into())));
    assert_eq!(chosen("Tie"), None);
}

#[test]
fn every_epoch_has_each_index_once_and_its_own_order() {
    let batches = Batches::new(11, 4, 7).unwrap().keep_last(true);
    let order = |epoch| batches.epoch(epoch).flat_map(|batch| batch.indices).collect::<Vec<usize>>();
    for epoch in 0..20 {
        let mut indices = order(epoch);
        indices.sort_unstable();
        assert_eq!(indices, (0..11).collect::<Vec<_>>());
    }
    assert_ne!(order(0), order(1));
    let other = Batches::new(11, 4, 8).unwrap().keep_last(true);
    assert_ne!(order(0), other.epoch(0).flat_map(|batch| batch.indices).collect::<Vec<usize>>());
    assert_eq!(Batches::new(11, 4, 7).unwrap().epoch(3).map(|batch| batch.indices.len()).sum::<usize>(), 8);
}

#[test]
fn a_run_that_starts_at_any_step_sees_the_batches_of_an_unbroken_one() {
    for keep_last in [false, true] {
        let batches = Batches::new(10, 3, 1).unwrap().keep_last(keep_last);
        let all: Vec<Batch> = batches.from_step(0).take(12).collect();
        for step in 0..12 {
            let rest: Vec<Batch> = batches.from_step(step as u64).take(12 - step).collect();
            assert_eq!(rest, all[step..]);
        }
    }
    assert!(Batches::new(3, 4, 0).is_err() && Batches::new(3, 0, 0).is_err());
}

#[test]
fn what_a_limit_of_length_does_is_counted() {
    let example = |weights: &[f32]| {
        let tokens: Vec<i32> = (0..weights.len() as i32).collect();
        Example::new(ModelInput::from_ints(tokens), weights.to_vec()).unwrap()
    };
    let all = [example(&[0.0, 1.0]), example(&[0.0, 1.0, 1.0, 1.0]), example(&[0.0, 0.0, 0.0, 1.0])];
    let prepared = to_data(&all, Some(3), Reduction::Sum).unwrap();
    assert_eq!((prepared.n_whole, prepared.n_cut, prepared.dropped.as_slice()), (1, 1, &[2][..]));
    assert_eq!(prepared.data[1].loss_fn_inputs["weights"].as_f32(), Some(&[1.0, 1.0][..]));
    let error = to_data(&all[2..], Some(3), Reduction::Sum).unwrap_err();
    assert!(error.to_string().contains("1 left out"), "{error}");
    let error = to_data(&[], None, Reduction::Sum).unwrap_err();
    assert!(error.to_string().contains("without a message of the assistant"), "{error}");
}
