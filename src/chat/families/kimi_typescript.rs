//! Tools declared as types of TypeScript, as K2.5 is given them.

use crate::chat::json::{Json, Style};
use crate::chat::message::ToolSpec;

const INDENT: &str = "  ";

/// The declaration of tools.
///
/// # Errors
/// The index of a tool whose parameters cannot be written, and what is wrong with them.
pub(super) fn declaration(tools: &[ToolSpec]) -> Result<String, (usize, String)> {
    let mut text = "# Tools\n\n## functions\nnamespace functions {\n".to_owned();
    for (i, tool) in tools.iter().enumerate() {
        text += &function(tool).map_err(|problem| (i, problem))?;
        text += "\n";
    }
    Ok(text + "}\n")
}

fn function(tool: &ToolSpec) -> Result<String, String> {
    let parameters = Json::read(&tool.parameters).map_err(|error| format!("not valid JSON: {error}"))?;
    if parameters.as_object().is_none() {
        return Err("must be a JSON object".into());
    }
    let mut scope = Scope::default();
    let root = scope.object(&parameters)?;
    let mut lines = Vec::new();
    let mut argument = root.write("");
    if scope.refers_to_root {
        // Here alone the properties keep their order, and additional ones are left out.
        let fields: Vec<String> = match &root {
            Kind::Object { properties, .. } => {
                properties.iter().map(|property| property.write(INDENT)).collect()
            }
            _ => Vec::new(),
        };
        let fields = if fields.is_empty() { String::new() } else { format!("\n{}\n", fields.join(",\n")) };
        lines.push(format!("interface {ROOT} {{{fields}}}"));
        argument = ROOT.into();
    }
    for (name, schema) in scope.definitions.clone() {
        let kind = scope.kind(&schema)?;
        lines.extend(comment(description(&schema), ""));
        lines.push(format!("interface {name} {}", kind.write("")));
    }
    lines.extend(comment(&tool.description, ""));
    lines.push(format!("type {} = (_: {argument}) => any;", tool.name));
    Ok(lines.join("\n"))
}

/// The name of the parameters where they refer to themselves.
const ROOT: &str = "parameters";

/// What the references of a tool's parameters can refer to.
#[derive(Debug, Default)]
struct Scope {
    definitions: Vec<(String, Json)>,
    refers_to_root: bool,
}

/// A type and what is said about it.
#[derive(Debug)]
struct Type {
    kind: Kind,
    description: String,
    constraints: Vec<String>,
}

#[derive(Debug)]
enum Kind {
    /// The name of a type.
    Name(String),
    Object {
        properties: Vec<Property>,
        additional: Option<Box<Kind>>,
    },
    Array(Box<Type>),
    /// Values of an enumeration, or names of types.
    OneOf(Vec<String>),
    AnyOf(Vec<Kind>),
}

#[derive(Debug)]
struct Property {
    name: String,
    of: Type,
    required: bool,
    default: Option<String>,
}

impl Scope {
    fn read(&mut self, schema: &Json) -> Result<Type, String> {
        let constraints: &[&str] = match schema.get("type").and_then(Json::as_text) {
            _ if ["$ref", "anyOf", "enum"].iter().any(|key| schema.get(key).is_some()) => &[],
            Some("string") => &["maxLength", "minLength", "pattern"],
            Some("number" | "integer") => &["maximum", "minimum"],
            Some("array") => &["maxItems", "minItems"],
            _ => &[],
        };
        let constraint = |key: &&str| schema.get(key).map(|value| format!("{key}: {}", plain(value)));
        Ok(Type {
            kind: self.kind(schema)?,
            description: description(schema).to_owned(),
            constraints: constraints.iter().filter_map(constraint).collect(),
        })
    }

    fn kind(&mut self, schema: &Json) -> Result<Kind, String> {
        let fields = match schema {
            Json::Bool(true) => return Ok(Kind::Name("any".into())),
            Json::Bool(false) => return Ok(Kind::Name("null".into())),
            Json::Object(fields) => fields,
            _ => return Err(format!("{} is not a JSON schema", schema.write(Style::TEMPLATE))),
        };
        if let Some(reference) = schema.get("$ref") {
            return self.reference(reference.as_text().unwrap_or_default()).map(Kind::Name);
        }
        if let Some(any_of) = schema.get("anyOf") {
            let schemas = any_of.as_list().ok_or("anyOf must be a list of schemas")?;
            let kinds: Result<_, String> = schemas.iter().map(|schema| self.kind(schema)).collect();
            return Ok(Kind::AnyOf(kinds?));
        }
        if let Some(values) = schema.get("enum") {
            return enumeration(values, schema.get("type"));
        }
        match schema.get("type") {
            Some(Json::List(names)) => {
                let names: Result<_, String> = names.iter().map(union_member).collect();
                Ok(Kind::OneOf(names?))
            }
            Some(Json::Text(name)) => match name.as_str() {
                "object" => self.object(schema),
                "array" => {
                    let items = schema.get("items").filter(|items| !is_empty(items));
                    let any = Json::Bool(true);
                    Ok(Kind::Array(Box::new(self.read(items.unwrap_or(&any))?)))
                }
                "integer" => Ok(Kind::Name("number".into())),
                name => Ok(Kind::Name(name.into())),
            },
            None if fields.is_empty() => Ok(Kind::Name("any".into())),
            _ => Err(format!("the schema {} has no type that can be written", schema.write(Style::TEMPLATE))),
        }
    }

    fn object(&mut self, schema: &Json) -> Result<Kind, String> {
        for (name, definition) in schema.get("$defs").and_then(Json::as_object).unwrap_or_default() {
            match self.definitions.iter_mut().find(|(known, _)| known == name) {
                Some(known) => known.1 = definition.clone(),
                None => self.definitions.push((name.clone(), definition.clone())),
            }
        }
        let additional = match schema.get("additionalProperties") {
            None | Some(Json::Null) => None,
            Some(Json::Bool(true)) => Some(Kind::Name("any".into())),
            Some(Json::Bool(false)) => Some(Kind::Name("never".into())),
            Some(other) => Some(self.kind(other)?),
        };
        let required: Vec<&str> = schema
            .get("required")
            .and_then(Json::as_list)
            .unwrap_or_default()
            .iter()
            .filter_map(Json::as_text)
            .collect();
        let mut properties = Vec::new();
        for (name, property) in schema.get("properties").and_then(Json::as_object).unwrap_or_default() {
            properties.push(Property {
                name: name.clone(),
                of: self.read(property)?,
                required: required.contains(&name.as_str()),
                default: property.get("default").filter(|value| **value != Json::Null).map(default),
            });
        }
        Ok(Kind::Object { properties, additional: additional.map(Box::new) })
    }

    fn reference(&mut self, reference: &str) -> Result<String, String> {
        if reference == "#" {
            self.refers_to_root = true;
            return Ok(ROOT.into());
        }
        let name = reference.strip_prefix("#/$defs/").and_then(|path| path.rsplit('/').next());
        let name =
            name.ok_or_else(|| format!("the reference {reference:?} is neither # nor #/$defs/NAME"))?;
        if self.definitions.iter().any(|(known, _)| known == name) {
            Ok(name.into())
        } else {
            Err(format!("the reference {reference:?} has no definition"))
        }
    }
}

impl Kind {
    fn write(&self, indent: &str) -> String {
        let inner = format!("{indent}{INDENT}");
        match self {
            Kind::Name(name) => name.clone(),
            Kind::OneOf(names) => names.join(" | "),
            Kind::AnyOf(kinds) => kinds.iter().map(|kind| kind.write(indent)).collect::<Vec<_>>().join(" | "),
            Kind::Array(of) => match of.comments(&inner) {
                comments if comments.is_empty() => format!("Array<{}>", of.kind.write(indent)),
                comments => format!("Array<\n{comments}{inner}{}\n{indent}>", of.kind.write(&inner)),
            },
            Kind::Object { properties, additional } => {
                let mut sorted: Vec<&Property> = properties.iter().collect();
                sorted.sort_by_key(|property| (!property.required, &property.name));
                let mut fields: Vec<String> =
                    sorted.into_iter().map(|property| property.write(&inner)).collect();
                let additional = additional.iter();
                fields.extend(additional.map(|kind| format!("{inner}[k: string]: {}", kind.write(&inner))));
                if fields.is_empty() {
                    return "{}".into();
                }
                format!("{{\n{}\n{indent}}}", fields.join(",\n"))
            }
        }
    }
}

impl Type {
    /// The lines above a type, each with its end.
    fn comments(&self, indent: &str) -> String {
        let mut lines: Vec<String> = comment(&self.description, indent).into_iter().collect();
        if !self.constraints.is_empty() {
            lines.push(format!("{indent}// {}", self.constraints.join(", ")));
        }
        lines.iter().map(|line| format!("{line}\n")).collect()
    }
}

impl Property {
    fn write(&self, indent: &str) -> String {
        let mut text = self.of.comments(indent);
        if let Some(default) = &self.default {
            text += &format!("{indent}// Default: {default}\n");
        }
        let optional = if self.required { "" } else { "?" };
        text + &format!("{indent}{}{optional}: {}", self.name, self.of.kind.write(indent))
    }
}

fn description(schema: &Json) -> &str {
    schema.get("description").and_then(Json::as_text).unwrap_or_default()
}

/// A comment of a text. Its empty lines stay empty.
fn comment(text: &str, indent: &str) -> Option<String> {
    let line = |line: &str| if line.is_empty() { String::new() } else { format!("{indent}// {line}") };
    let lines: Vec<String> = text.split('\n').map(line).collect();
    (!text.is_empty()).then(|| lines.join("\n"))
}

/// A value as Python writes it.
fn plain(value: &Json) -> String {
    match value {
        Json::Null => "None".into(),
        Json::Bool(true) => "True".into(),
        Json::Bool(false) => "False".into(),
        Json::Text(text) => text.clone(),
        other => other.write(Style::TEMPLATE),
    }
}

fn default(value: &Json) -> String {
    match value {
        Json::Bool(_) => plain(value),
        other => other.write(Style::TEMPLATE),
    }
}

fn is_empty(value: &Json) -> bool {
    match value {
        Json::Null | Json::Bool(false) => true,
        Json::Bool(true) => false,
        Json::Number(number) => matches!(number.as_str(), "0" | "0.0" | "-0.0"),
        Json::Text(text) => text.is_empty(),
        Json::List(items) => items.is_empty(),
        Json::Object(fields) => fields.is_empty(),
    }
}

fn union_member(name: &Json) -> Result<String, String> {
    Ok(match name.as_text().unwrap_or_default() {
        name @ ("string" | "number" | "boolean" | "null") => name.into(),
        "integer" => "number".into(),
        "object" => "{}".into(),
        "array" => "Array<any>".into(),
        _ => return Err(format!("{} is not a type of JSON", name.write(Style::TEMPLATE))),
    })
}

fn enumeration(values: &Json, of: Option<&Json>) -> Result<Kind, String> {
    let values = values.as_list().ok_or("enum must be a list")?;
    let of = match of {
        None => "",
        Some(Json::Text(of)) => of,
        Some(Json::List(list)) => match list.iter().map(Json::as_text).collect::<Vec<_>>().as_slice() {
            [Some(of)] | [Some(of), Some("null")] | [Some("null"), Some(of)] => of,
            _ => return Err("an enum has one type, and null at most".into()),
        },
        Some(_) => return Err("the type of an enum must be a text".into()),
    };
    let mut texts = Vec::new();
    for value in values {
        let is_whole = |number: &str| !number.contains(['.', 'e', 'E']);
        let fits = match (value, of) {
            (Json::List(_) | Json::Object(_), _) => false,
            (Json::Null, _) => true,
            (Json::Text(_), "string") | (Json::Number(_), "number") | (Json::Bool(_), "boolean") => true,
            (Json::Number(number), "integer") => is_whole(number),
            // As Python has it, true and false are numbers.
            (Json::Bool(_), "number" | "integer") => true,
            (_, "string" | "number" | "integer" | "boolean") => false,
            _ => true,
        };
        if !fits {
            let value = value.write(Style::TEMPLATE);
            return Err(match of {
                "" => format!("the value {value} of an enum cannot be written"),
                of => format!("the value {value} of an enum is not of the type {of}"),
            });
        }
        texts.push(match value {
            Json::Text(text) => format!("\"{text}\""),
            other => plain(other),
        });
    }
    Ok(Kind::OneOf(texts))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn declared(parameters: &str) -> Result<String, (usize, String)> {
        let one = |parameters: &str| ToolSpec {
            name: "f".into(),
            description: "Does\nit".into(),
            parameters: parameters.into(),
        };
        declaration(&[one("{}"), one(parameters)])
    }

    /// The texts are those of the function that the cookbook has from Kimi.
    #[test]
    fn schemas_become_types() {
        let empty =
            "# Tools\n\n## functions\nnamespace functions {\n// Does\n// it\ntype f = (_: {}) => any;\n";
        for (parameters, text) in [
            (ALL_FORMS, ALL_FORMS_DECLARED),
            (
                r##"{"type":"object","properties":{"b":{"type":"string","description":"last"},"a":{"type":"array","items":{"$ref":"#"}}},"required":["a"],"additionalProperties":false}"##,
                r##"interface parameters {
  // last
  b?: string,
  a: Array<parameters>
}
// Does
// it
type f = (_: parameters) => any;
}
"##,
            ),
            (
                r#"{"type":"object","properties":{},"additionalProperties":true}"#,
                r#"// Does
// it
type f = (_: {
  [k: string]: any
}) => any;
}
"#,
            ),
        ] {
            assert_eq!(declared(parameters).unwrap(), format!("{empty}{text}"));
        }
    }

    #[test]
    fn schemas_that_cannot_be_written_are_refused_with_the_index_of_the_tool() {
        for (parameters, problem) in [
            ("[]", "must be a JSON object"),
            (r#"{"properties":{"a":{"description":"x"}}}"#, "has no type"),
            (r##"{"properties":{"a":{"$ref":"#/$defs/Q"}}}"##, "has no definition"),
            (r#"{"properties":{"a":{"$ref":"other"}}}"#, "is neither #"),
            (r#"{"properties":{"a":{"type":"integer","enum":[1.0]}}}"#, "not of the type integer"),
            (r#"{"properties":{"a":{"type":["file"]}}}"#, "not a type of JSON"),
            (r#"{"properties":{"a":{"type":"array","items":[1]}}}"#, "not a JSON schema"),
        ] {
            let (index, text) = declared(parameters).unwrap_err();
            assert!(index == 1 && text.contains(problem), "{parameters}: {index} {text}");
        }
    }

    const ALL_FORMS: &str = r##"{"$defs":{"Point":{"type":"object","description":"A place\n\non a map","properties":{"y":{"type":"number"},"x":{"type":"number","minimum":-1.50,"maximum":10}},"required":["y"]},"Unit":{"enum":["m",1,2.0,true,null]}},
"properties":{"z":{"type":"array","items":{"type":"string","description":"A tag","pattern":"^a.b$","maxLength":9},"minItems":1,"maxItems":3},
"path":{"type":"array","items":{"$ref":"#/$defs/Point"},"description":"Lines\nof it"},
"unit":{"$ref":"#/$defs/Unit","description":"In what"},
"open":{"type":"object","additionalProperties":{"anyOf":[{"type":"integer"},{"type":["array","null","object","integer"]}]}},
"closed":{"type":"object","properties":{"é":true,"no":false,"any":{}},"additionalProperties":false,"required":["no"]},
"list":{"type":"array"},"n":{"type":"integer","default":1.50,"minimum":0},"s":{"type":"string","default":"ü \"x\""},"o":{"type":"object","default":{"k":[1,null,true]}},"b":{"type":"boolean","default":true},"bare":{"type":"object"}},
"required":["z","b"]}"##;

    const ALL_FORMS_DECLARED: &str = r##"// A place

// on a map
interface Point {
  y: number,
  // maximum: 10, minimum: -1.5
  x?: number
}
interface Unit "m" | 1 | 2.0 | True | None
// Does
// it
type f = (_: {
  // Default: True
  b: boolean,
  // maxItems: 3, minItems: 1
  z: Array<
    // A tag
    // maxLength: 9, pattern: ^a.b$
    string
  >,
  bare?: {},
  closed?: {
    no: null,
    any?: any,
    é?: any,
    [k: string]: never
  },
  list?: Array<any>,
  // minimum: 0
  // Default: 1.5
  n?: number,
  // Default: {"k": [1, null, true]}
  o?: {},
  open?: {
    [k: string]: number | Array<any> | null | {} | number
  },
  // Lines
  // of it
  path?: Array<Point>,
  // Default: "ü \"x\""
  s?: string,
  // In what
  unit?: Unit
}) => any;
}
"##;
}
