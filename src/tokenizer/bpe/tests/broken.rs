//! Broken and unknown files: each is an error that names the place in the file.

use super::*;

/// A change that breaks the small file, and the beginning of the error.
type Case = (fn(&mut Value), &'static str);

const CASES: &[Case] = &[
    (|it| it["version"] = json!("9.9"), "tokenizer.json: version: is \"9.9\""),
    (|it| it["normalizer"] = json!({"type": "NFKC"}), "tokenizer.json: normalizer.type: is \"NFKC\""),
    (|it| it["normalizer"] = json!("NFC"), "tokenizer.json: normalizer: is \"NFC\"; an object is needed"),
    (
        |it| {
            it["normalizer"] =
                json!({"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]})
        },
        "tokenizer.json: normalizer.normalizers[1].type: is \"Lowercase\"",
    ),
    (|it| it["pre_tokenizer"] = Value::Null, "tokenizer.json: pre_tokenizer: is missing"),
    (
        |it| it["pre_tokenizer"] = json!({"type": "Whitespace"}),
        "tokenizer.json: pre_tokenizer.type: is \"Whitespace\"",
    ),
    (
        |it| it["pre_tokenizer"]["pretokenizers"][0]["type"] = json!("Digits"),
        "tokenizer.json: pre_tokenizer.pretokenizers[0].type: is \"Digits\"",
    ),
    (
        |it| it["pre_tokenizer"]["pretokenizers"][1]["type"] = json!("Metaspace"),
        "tokenizer.json: pre_tokenizer.pretokenizers[1].type: is \"Metaspace\"",
    ),
    (
        |it| it["pre_tokenizer"]["pretokenizers"][1]["add_prefix_space"] = json!(true),
        "tokenizer.json: pre_tokenizer.pretokenizers[1].add_prefix_space: is true",
    ),
    (
        |it| it["pre_tokenizer"]["pretokenizers"][0]["behavior"] = json!("Removed"),
        "tokenizer.json: pre_tokenizer.pretokenizers[0].behavior: is \"Removed\"",
    ),
    (
        |it| it["pre_tokenizer"]["pretokenizers"][0]["invert"] = json!(true),
        "tokenizer.json: pre_tokenizer.pretokenizers[0].invert: is true",
    ),
    (
        |it| it["pre_tokenizer"]["pretokenizers"][0]["pattern"] = json!({"String": " "}),
        "tokenizer.json: pre_tokenizer.pretokenizers[0].pattern.Regex: is missing",
    ),
    (
        |it| it["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = json!("(a"),
        "tokenizer.json: pre_tokenizer.pretokenizers[0].pattern.Regex: is not a pattern that can be used",
    ),
    (
        |it| it["pre_tokenizer"]["pretokenizers"] = json!([]),
        "tokenizer.json: pre_tokenizer.pretokenizers: is empty",
    ),
    (|it| it["decoder"] = json!({"type": "WordPiece"}), "tokenizer.json: decoder.type: is \"WordPiece\""),
    (|it| it["model"] = Value::Null, "tokenizer.json: model: is missing"),
    (|it| it["model"]["type"] = json!("Unigram"), "tokenizer.json: model.type: is \"Unigram\""),
    (|it| it["model"]["dropout"] = json!(0.1), "tokenizer.json: model.dropout: is set"),
    (|it| it["model"]["byte_fallback"] = json!(true), "tokenizer.json: model.byte_fallback: is true"),
    (
        |it| it["model"]["end_of_word_suffix"] = json!("</w>"),
        "tokenizer.json: model.end_of_word_suffix: is \"</w>\"",
    ),
    (
        |it| it["model"]["ignore_merges"] = json!(1),
        "tokenizer.json: model.ignore_merges: is 1; true or false",
    ),
    (|it| it["model"]["vocab"] = json!([]), "tokenizer.json: model.vocab: is []; an object is needed"),
    (|it| it["model"]["vocab"]["he"] = json!(-1), "tokenizer.json: model.vocab[\"he\"]: is -1; an id"),
    (
        |it| it["model"]["vocab"]["he"] = json!(1u64 << 31),
        "tokenizer.json: model.vocab[\"he\"]: is 2147483648",
    ),
    (
        |it| it["model"]["vocab"]["he"] = json!(0),
        "tokenizer.json: model.vocab[\"Ā\"]: has the id 0, which model.vocab[\"he\"] has, too",
    ),
    (|it| it["model"]["vocab"]["｜"] = json!(270), "tokenizer.json: model.vocab[\"｜\"]: has characters"),
    (|it| it["model"]["vocab"][""] = json!(270), "tokenizer.json: model.vocab[\"\"]: the token 270 is empty"),
    (
        |it| drop(it["model"]["vocab"].as_object_mut().unwrap().remove("!")),
        "tokenizer.json: model.vocab: lacks a token for the byte 0x21",
    ),
    (|it| it["model"]["merges"] = Value::Null, "tokenizer.json: model.merges: is missing"),
    (|it| it["model"]["merges"][1] = json!("l l l"), "tokenizer.json: model.merges[1]: is \"l l l\""),
    (|it| it["model"]["merges"][1] = json!(["l", 1]), "tokenizer.json: model.merges[1]: is [\"l\",1]"),
    (
        |it| it["model"]["merges"][1] = json!("l xx"),
        "tokenizer.json: model.merges[1]: \"xx\" is not in the vocabulary",
    ),
    (|it| it["model"]["merges"][1] = json!("l o"), "tokenizer.json: model.merges[1]: merges into \"lo\""),
    (|it| it["model"]["merges"][1] = json!("h e"), "tokenizer.json: model.merges[1]: occurs twice"),
    (|it| it["added_tokens"] = json!({}), "tokenizer.json: added_tokens: is {}; a list is needed"),
    (|it| it["added_tokens"][0] = json!("<end>"), "tokenizer.json: added_tokens[0]: is \"<end>\""),
    (|it| it["added_tokens"][0]["id"] = Value::Null, "tokenizer.json: added_tokens[0].id: is missing"),
    (|it| it["added_tokens"][0]["id"] = json!(5), "tokenizer.json: added_tokens[0].id: is 5, the id of"),
    (
        |it| it["added_tokens"][1]["id"] = json!(300),
        "tokenizer.json: added_tokens[1].id: is 300, the id of \"<end>\"",
    ),
    (|it| it["added_tokens"][0]["content"] = json!(""), "tokenizer.json: added_tokens[0].content: is empty"),
    (
        |it| it["added_tokens"][1]["content"] = json!("<end>"),
        "tokenizer.json: added_tokens[1].content: is \"<end>\", as in tokenizer.json: added_tokens[0]",
    ),
    (|it| it["added_tokens"][0]["content"] = json!("he"), "tokenizer.json: added_tokens[0].id: is 300, but"),
    (
        |it| it["added_tokens"][0]["special"] = json!("yes"),
        "tokenizer.json: added_tokens[0].special: is \"yes\"",
    ),
    (|it| *it = json!([1]), "tokenizer.json: is [1]; an object is needed"),
];

#[test]
fn a_file_that_could_give_wrong_ids_is_refused_with_the_place_in_the_file() {
    for (i, (change, expected)) in CASES.iter().enumerate() {
        let mut document = small();
        change(&mut document);
        let error = load(&document).expect_err(expected);
        assert!(error.is_user_error(), "{i}: {error:?}");
        assert!(error.to_string().starts_with(expected), "{i}: {error}\nexpected {expected}");
    }
}

#[test]
fn a_cut_file_is_refused() {
    let text = small().to_string();
    for end in [0, 1, text.len() / 2, text.len() - 1] {
        let error = Bpe::from_tokenizer_json(&text.as_bytes()[..end]).expect_err("a refusal").to_string();
        assert!(error.starts_with("tokenizer.json: is not valid JSON"), "{end}: {error}");
    }
    assert!(Bpe::from_tokenizer_json(b"\xff\xfe").is_err());
}

#[test]
fn broken_ranks_are_refused_with_their_line() {
    let good = vocabularies_of_bytes();
    let markers = |name: &str, id: i32| BTreeMap::from([(name.to_string(), id)]);
    let none = BTreeMap::new();
    for (ranks, pattern, specials, expected) in [
        (
            good.clone() + "aGk=\n",
            r"\s+",
            &none,
            "ranks: line 257: is not Base64, a space and a rank: \"aGk=\"",
        ),
        (good.clone() + "a%k= 256\n", r"\s+", &none, "ranks: line 257: the token is not valid Base64"),
        (good.clone() + "aGk= x\n", r"\s+", &none, "ranks: line 257: the rank is not a number"),
        (good.clone() + "aGk= 255\n", r"\s+", &none, "ranks: token \"hi\": has the id 255"),
        (good.clone() + "AA== 256\n", r"\s+", &none, "ranks: token \"\\0\": occurs twice"),
        (good.replace("AA== 0\n", ""), r"\s+", &none, "ranks: lacks a token for the byte 0x00"),
        (String::new(), r"\s+", &none, "ranks: lacks a token for the byte 0x00"),
        (good.clone(), "(", &none, "pattern: is not a pattern that can be used"),
        (good.clone(), r"\s+", &markers("<a>", 5), "specials[\"<a>\"].id: is 5, the id of"),
        (good.clone(), r"\s+", &markers("<a>", -5), "specials[\"<a>\"]: is -5"),
        (good, r"\s+", &markers("", 300), "specials[\"\"].content: is empty"),
    ] {
        let error = Bpe::from_tiktoken(ranks.as_bytes(), pattern, specials).expect_err(expected).to_string();
        assert!(error.starts_with(expected), "{error}\nexpected {expected}");
    }
}
