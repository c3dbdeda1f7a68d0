//! Tools as gpt-oss reads them: function types of TypeScript, as the model's template writes them, or as the cookbook does.

use crate::chat::family::At;
use crate::chat::json::{Json, Style};
use crate::chat::message::ToolSpec;
use crate::error::Result;

/// The template turns types of items that are longer, in characters, into `any`.
const LONGEST_ITEM: usize = 50;

/// What the template's indentation leaves in the output.
const BEFORE_FIELD_TYPE: &str = "\n                ";
const BEFORE_DEFAULT_OF_VARIANT: &str = "                    ";

/// The declaration of tools, without instructions.
pub(super) fn declare(tools: &[ToolSpec], like_cookbook: bool, at: &At<'_>) -> Result<String> {
    let mut text = String::from("# Tools\n\n## functions\n\nnamespace functions {\n\n");
    for (i, tool) in tools.iter().enumerate() {
        let parameters = match Json::read(&tool.parameters) {
            Ok(parameters @ Json::Object(_)) => Ok(parameters),
            Ok(_) => Err("must be a JSON object".to_owned()),
            Err(error) => Err(format!("not valid JSON: {error}")),
        };
        let parameters =
            parameters.map_err(|problem| at.invalid(&format!(".tools[{i}].parameters"), problem))?;
        let tool = if like_cookbook { cookbook(tool, &parameters) } else { template(tool, &parameters) };
        text += &tool;
        text += "\n\n";
    }
    Ok(text + "} // namespace functions")
}

/// A tool as the template writes it.
fn template(tool: &ToolSpec, parameters: &Json) -> String {
    let mut text = format!("// {}\ntype {} = ", tool.description, tool.name);
    let fields = fields(parameters);
    if fields.is_empty() {
        return text + "() => any;";
    }
    text += "(_: {\n";
    for (name, schema) in fields {
        if let Some(description) = set(schema, "description") {
            text += &format!("// {}\n", plain(description));
        }
        text += &format!("{name}{}: {}", optional(parameters, name), template_type(schema));
        if let Some(default) = schema.get("default") {
            text += &if set(schema, "enum").is_some() {
                format!(", // default: {}", plain(default))
            } else if set(schema, "oneOf").is_some() {
                format!("// default: {}", plain(default))
            } else {
                format!(", // default: {}", default.write(Style::TEMPLATE))
            };
        }
        text += ",\n";
    }
    text + "}) => any;"
}

fn template_type(schema: &Json) -> String {
    let or_null = if set(schema, "nullable").is_some() { " | null" } else { "" };
    let kind = schema.get("type");
    match kind.and_then(Json::as_text) {
        Some("array") => return format!("{}[]{or_null}", template_item(schema)),
        None => {
            if let Some([first, rest @ ..]) = kind.and_then(Json::as_list) {
                return rest.iter().fold(plain(first), |all, kind| all + " | " + &plain(kind));
            }
        }
        Some(_) => {}
    }
    if let Some(variants) = set(schema, "oneOf").and_then(Json::as_list) {
        return variants.iter().map(template_variant).collect::<Vec<_>>().join(" | \n");
    }
    match kind.and_then(Json::as_text) {
        Some("string") => match set(schema, "enum").and_then(Json::as_list) {
            Some(values) => {
                let values: Vec<String> =
                    values.iter().map(|value| format!("\"{}\"", plain(value))).collect();
                values.join(" | ")
            }
            None => format!("string{or_null}"),
        },
        Some("number" | "integer") => "number".into(),
        Some("boolean") => "boolean".into(),
        Some("object") => {
            let field = |(name, field): &(String, Json)| {
                format!("{name}{}: {BEFORE_FIELD_TYPE}{}", optional(schema, name), template_type(field))
            };
            let fields: Vec<String> = fields(schema).iter().map(field).collect();
            if fields.is_empty() { "object".into() } else { format!("{{\n{}}}", fields.join(", ")) }
        }
        _ => "any".into(),
    }
}

fn template_item(schema: &Json) -> String {
    let Some(items) = set(schema, "items") else { return "any".into() };
    // A plain item has neither values nor null.
    match items.get("type").and_then(Json::as_text) {
        Some("string") => "string".into(),
        Some("number" | "integer") => "number".into(),
        Some("boolean") => "boolean".into(),
        _ => {
            let item = template_type(items);
            let is_any = item == "object | object" || LONGEST_ITEM < item.chars().count();
            if is_any { "any".into() } else { item }
        }
    }
}

fn template_variant(schema: &Json) -> String {
    let mut text = template_type(schema);
    if let Some(description) = set(schema, "description") {
        text += &format!("// {}", plain(description));
    }
    if let Some(default) = schema.get("default") {
        text += &format!("{BEFORE_DEFAULT_OF_VARIANT}// default: {}", default.write(Style::TEMPLATE));
    }
    text
}

/// A tool as the cookbook writes it.
fn cookbook(tool: &ToolSpec, parameters: &Json) -> String {
    let mut lines = Vec::new();
    if !tool.description.is_empty() {
        lines.push(format!("// {}", tool.description));
    }
    let fields = fields(parameters);
    if !is_object(parameters) || fields.is_empty() {
        lines.push(format!("type {} = () => any;", tool.name));
        return lines.join("\n");
    }
    let comment = set(parameters, "description").map(|text| format!(" // {}", plain(text)));
    lines.push(format!("type {} = (_:{}", tool.name, comment.unwrap_or_default()));
    lines.push("{".into());
    for (name, schema) in fields {
        lines.extend(cookbook_comments(schema).into_iter().map(|comment| format!("// {comment}")));
        let default = schema.get("default").map(|it| format!(" // default: {}", it.write(Style::PYTHON)));
        let kind = cookbook_type(schema);
        lines.push(format!("{name}{}: {kind},{}", optional(parameters, name), default.unwrap_or_default()));
    }
    lines.push("}) => any;".into());
    lines.join("\n")
}

fn cookbook_comments(schema: &Json) -> Vec<String> {
    let mut comments = Vec::new();
    if let Some(title) = set(schema, "title") {
        comments.extend([plain(title), String::new()]);
    }
    comments.extend(set(schema, "description").map(plain));
    if let Some(examples) = set(schema, "examples").and_then(Json::as_list) {
        comments.push("Examples:".into());
        comments.extend(examples.iter().map(|example| format!("- {}", example.write(Style::PYTHON))));
    }
    comments
}

fn cookbook_type(schema: &Json) -> String {
    let union = |kinds: &[Json]| kinds.iter().map(cookbook_type).collect::<Vec<_>>().join(" | ");
    for key in ["oneOf", "anyOf"] {
        if let Some(variants) = schema.get(key).and_then(Json::as_list) {
            return union(variants);
        }
    }
    let kind = schema.get("type");
    if let Some(kinds) = kind.and_then(Json::as_list) {
        let kinds: Vec<Json> = kinds.iter().map(|kind| Json::object([("type", kind.clone())])).collect();
        return union(&kinds);
    }
    let kind = match kind.and_then(Json::as_text) {
        Some("string") => {
            if let Some(values) = schema.get("enum").and_then(Json::as_list) {
                let values: Vec<String> = values.iter().map(|value| value.write(Style::PYTHON)).collect();
                return values.join(" | ");
            }
            "string".into()
        }
        Some("number" | "integer") => "number".into(),
        Some("boolean") => "boolean".into(),
        Some("array") => schema.get("items").map_or("any".into(), cookbook_type) + "[]",
        Some("object") => {
            let field = |(name, field): &(String, Json)| {
                format!("{name}{}: {}", optional(schema, name), cookbook_type(field))
            };
            format!("{{ {} }}", fields(schema).iter().map(field).collect::<Vec<_>>().join(", "))
        }
        _ => String::from("any"),
    };
    if set(schema, "nullable").is_some() { kind + " | null" } else { kind }
}

fn is_object(schema: &Json) -> bool {
    schema.get("type").and_then(Json::as_text) == Some("object")
}

fn fields(schema: &Json) -> &[(String, Json)] {
    schema.get("properties").and_then(Json::as_object).unwrap_or_default()
}

fn optional(schema: &Json, field: &str) -> &'static str {
    let required = schema.get("required").and_then(Json::as_list).unwrap_or_default();
    if required.iter().any(|name| name.as_text() == Some(field)) { "" } else { "?" }
}

/// A member that is there and that Python takes for true.
fn set<'a>(schema: &'a Json, key: &str) -> Option<&'a Json> {
    schema.get(key).filter(|value| match value {
        Json::Null | Json::Bool(false) => false,
        Json::Bool(true) => true,
        Json::Number(number) => number.parse() != Ok(0.0),
        Json::Text(text) => !text.is_empty(),
        Json::List(items) => !items.is_empty(),
        Json::Object(fields) => !fields.is_empty(),
    })
}

/// A value without quotes, as Python makes a text of it.
fn plain(value: &Json) -> String {
    match value {
        Json::Text(text) => text.clone(),
        Json::Null => "None".into(),
        Json::Bool(true) => "True".into(),
        Json::Bool(false) => "False".into(),
        other => other.write(Style::TEMPLATE),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Parameters, and their fields in the forms of the template and of the cookbook.
    const CASES: &[(&str, &str, &str)] = &[
        (
            r#"{"type":"object","properties":{
                "a":{"type":"array","items":{"type":"integer"}},
                "b":{"type":"array"},
                "c":{"type":"array","items":{"type":"array","items":{"type":"string"}}},
                "d":{"type":"array","items":{"type":"object","properties":{"x":{"type":"string"}}},"nullable":true},
                "e":{"type":"array","items":{"type":"object"}},
                "f":{"type":"array","items":{"type":["string","null"]}},
                "g":{"type":"array","items":{"type":"string","enum":["u","v"]}},
                "h":{"type":"array","nullable":true},
                "i":{"type":"array","items":{"type":"object","properties":{"long_name_of_a_field":{"type":"string"},
                    "another":{"type":"string"}},"required":["another"]}},
                "j":{"type":"array","items":{"type":["object","object"]}}}}"#,
            "a?: number[],\nb?: any[],\nc?: string[][],\nd?: {\nx?: \n                string}[] | null,\n\
             e?: object[],\nf?: string | null[],\ng?: string[],\nh?: any[] | null,\ni?: any[],\nj?: any[],\n",
            "a?: number[],\nb?: any[],\nc?: string[][],\nd?: { x?: string }[] | null,\ne?: {  }[],\n\
             f?: string | any[],\ng?: \"u\" | \"v\"[],\nh?: any[] | null,\n\
             i?: { long_name_of_a_field?: string, another: string }[],\nj?: {  } | {  }[],\n",
        ),
        (
            r#"{"type":"object","properties":{
                "a":{"type":["string","null"],"enum":["x"]},"b":{"type":["number"]},"c":{"type":"null"},"d":{},
                "e":{"type":"boolean","nullable":true},"f":{"type":"string","nullable":true},"g":{"type":"object"},
                "h":{"type":"string","enum":["a\"b","ü"],"nullable":true},"i":{"type":"string","enum":[]},
                "j":{"type":"number","nullable":true},"k":{"type":[]}},"required":["a","k"]}"#,
            "a: string | null,\nb?: number,\nc?: any,\nd?: any,\ne?: boolean,\nf?: string | null,\ng?: object,\n\
             h?: \"a\"b\" | \"ü\",\ni?: string,\nj?: number,\nk: any,\n",
            "a: string | any,\nb?: number,\nc?: any,\nd?: any,\ne?: boolean | null,\nf?: string | null,\ng?: {  },\n\
             h?: \"a\\\"b\" | \"\\u00fc\",\ni?: ,\nj?: number | null,\nk: ,\n",
        ),
        (
            r#"{"type":"object","properties":{
                "a":{"type":"string","default":"ü"},"b":{"type":"string","enum":["x","y"],"default":"y"},
                "c":{"type":"object","properties":{"q":{"type":"number","default":1}},"default":{"q":[1,2]}},
                "d":{"oneOf":[{"type":"string"},{"type":"number"}],"default":"s"},
                "e":{"type":"string","default":null}}}"#,
            "a?: string, // default: \"ü\",\nb?: \"x\" | \"y\", // default: y,\n\
             c?: {\nq?: \n                number}, // default: {\"q\": [1, 2]},\n\
             d?: string | \nnumber// default: s,\ne?: string, // default: null,\n",
            "a?: string, // default: \"\\u00fc\"\nb?: \"x\" | \"y\", // default: \"y\"\n\
             c?: { q?: number }, // default: {\"q\": [1, 2]}\nd?: string | number, // default: \"s\"\n\
             e?: string, // default: null\n",
        ),
        (
            r#"{"type":"object","properties":{
                "a":{"oneOf":[{"type":"string","description":"text","default":"x"},{"type":"number","description":"n"},
                    {"type":"boolean","default":true}]},
                "b":{"oneOf":[{"type":"object"},{"type":"string"}]},
                "c":{"oneOf":[{"type":"object","properties":{"z":{"type":"string"}}}]},
                "d":{"anyOf":[{"type":"string"},{"type":"null"}]},
                "e":{"type":"string","oneOf":[{"type":"string"},{"type":"integer"}]}}}"#,
            "a?: string// text                    // default: \"x\" | \nnumber// n | \n\
             boolean                    // default: true,\nb?: object | \nstring,\n\
             c?: {\nz?: \n                string},\nd?: any,\ne?: string | \nnumber,\n",
            "a?: string | number | boolean,\nb?: {  } | string,\nc?: { z?: string },\nd?: string | any,\n\
             e?: string | number,\n",
        ),
        (
            r#"{"type":"object","properties":{
                "a":{"type":"string","title":"T","description":"D","examples":["é",{"k":1}]},
                "b":{"type":"string","examples":[]},"c":{"type":"string","description":"l1\nl2"},
                "o":{"type":"object","properties":{"p":{"type":"array","items":{"type":"object","properties":
                    {"s":{"type":"integer","description":"lost"}}}},"q":{"type":"object"}},"required":["q"]}}}"#,
            "// D\na?: string,\nb?: string,\n// l1\nl2\nc?: string,\n\
             o?: {\np?: \n                {\ns?: \n                number}[], q: \n                object},\n",
            "// T\n// \n// D\n// Examples:\n// - \"\\u00e9\"\n// - {\"k\": 1}\na?: string,\nb?: string,\n\
             // l1\nl2\nc?: string,\no?: { p?: { s?: number }[], q: {  } },\n",
        ),
    ];

    fn tool(description: &str) -> ToolSpec {
        ToolSpec { name: "f".into(), description: description.into(), parameters: String::new() }
    }

    #[test]
    fn types_are_those_of_the_template_and_of_the_cookbook() {
        for (parameters, as_template, as_cookbook) in CASES {
            let json = Json::read(parameters).unwrap();
            let expected = format!("// d\ntype f = (_: {{\n{as_template}}}) => any;");
            assert_eq!(template(&tool("d"), &json), expected);
            let expected = format!("// d\ntype f = (_:\n{{\n{as_cookbook}}}) => any;");
            assert_eq!(cookbook(&tool("d"), &json), expected);
        }
    }

    #[test]
    fn a_tool_without_fields_takes_nothing() {
        for parameters in ["{}", r#"{"type":"object","properties":{}}"#, r#"{"type":"object"}"#] {
            let json = Json::read(parameters).unwrap();
            assert_eq!(template(&tool(""), &json), "// \ntype f = () => any;");
            assert_eq!(cookbook(&tool(""), &json), "type f = () => any;");
        }
    }

    #[test]
    fn the_cookbook_wants_a_type_and_writes_what_the_parameters_are() {
        let json = Json::read(r#"{"properties":{"a":{"type":"string"}}}"#).unwrap();
        assert_eq!(template(&tool("d"), &json), "// d\ntype f = (_: {\na?: string,\n}) => any;");
        assert_eq!(cookbook(&tool("d"), &json), "// d\ntype f = () => any;");
        let json =
            Json::read(r#"{"type":"object","description":"all","properties":{"a":{"type":"string"}}}"#);
        let expected = "// d\ntype f = (_: // all\n{\na?: string,\n}) => any;";
        assert_eq!(cookbook(&tool("d"), &json.unwrap()), expected);
    }
}
