//! The template engine, set up as Hugging Face `transformers` sets up Jinja2 for chat templates.

use std::fmt;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Value, ValueKind};
use minijinja::{Environment, ErrorKind, Output, State};

use super::date::Date;
use super::{python, values};
use crate::error::{Error, Result};

/// The name of the template in errors.
const NAME: &str = "template";

/// A compiled chat template.
#[derive(Debug)]
pub(super) struct Engine {
    environment: Environment<'static>,
}

/// Why a template stopped, beside errors of the engine itself.
#[derive(Clone, Debug)]
enum Stopped {
    /// It called `raise_exception`.
    Raised(String),
    /// It asked for the date, which is not set.
    NoDate,
    /// It asked for the date in a format that a date has no answer to.
    Format(String),
}

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stopped::Raised(message) => write!(f, "the template refuses the messages: {message}"),
            Stopped::NoDate => f.write_str(
                "must be set: the template writes the current date, and a prompt must not depend on the day",
            ),
            Stopped::Format(format) => write!(
                f,
                "is a date, but the template asks for it in the format {format:?}, which needs a time or is unknown"
            ),
        }
    }
}

impl std::error::Error for Stopped {}

impl Stopped {
    fn path(&self) -> &'static str {
        match self {
            Stopped::Raised(_) => "messages",
            Stopped::NoDate | Stopped::Format(_) => "options.current_date",
        }
    }

    fn error(self) -> minijinja::Error {
        minijinja::Error::new(ErrorKind::InvalidOperation, "the template stopped").with_source(self)
    }
}

impl Engine {
    /// Compiles a template.
    ///
    /// # Errors
    /// `InvalidInput` with the line: not a valid template, or one that uses something that chat templates do not have.
    pub(super) fn new(template: &str, date: Option<Date>) -> Result<Self> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(engine_error)?);
        environment.set_unknown_method_callback(python::method);
        environment.set_formatter(write);
        environment.add_filter("tojson", values::tojson);
        environment.add_filter("trim", python::trim);
        environment.add_filter("indent", python::indent);
        // In Python, texts and mappings have a length and items, too, and None has none.
        environment.add_test("sequence", |value: &Value| {
            value.is_undefined()
                || matches!(value.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::String)
        });
        environment.add_test("iterable", |value: &Value| !value.is_none() && value.try_iter().is_ok());
        environment.add_function("raise_exception", |message: Value| -> std::result::Result<Value, _> {
            Err(Stopped::Raised(message.to_string()).error())
        });
        environment.add_function("strftime_now", move |format: &str| {
            let date = date.ok_or_else(|| Stopped::NoDate.error())?;
            date.format(format).ok_or_else(|| Stopped::Format(format.to_owned()).error())
        });
        environment.add_template_owned(NAME, without_generation_tags(template)).map_err(engine_error)?;
        Ok(Engine { environment })
    }

    /// Renders the template.
    pub(super) fn render(&self, variables: Value) -> Result<String> {
        let template = self.environment.get_template(NAME).map_err(engine_error)?;
        template.render(variables).map_err(engine_error)
    }
}

fn engine_error(error: minijinja::Error) -> Error {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    let mut innermost = &error;
    while let Some(this) = cause {
        if let Some(stopped) = this.downcast_ref::<Stopped>() {
            return Error::invalid(stopped.path(), stopped.to_string());
        }
        innermost = this.downcast_ref().unwrap_or(innermost);
        cause = this.source();
    }
    let path = match innermost.line() {
        Some(line) => format!("template: line {line}"),
        None => "template".into(),
    };
    let problem = match innermost.detail() {
        Some(detail) => format!("{}: {detail}", innermost.kind()),
        None => innermost.kind().to_string(),
    };
    Error::invalid(path, problem)
}

/// Writes the value of an expression as Python does.
fn write(out: &mut Output, _: &mut State, value: &Value) -> std::result::Result<(), minijinja::Error> {
    let written = match value.kind() {
        ValueKind::Number => out.write_str(&values::text_of_number(value)),
        _ => write!(out, "{value}"),
    };
    written.map_err(|_| minijinja::Error::from(ErrorKind::WriteFailure))
}

/// Makes `{% if true %}` of the tags `{% generation %}`, which `transformers` uses to find answers.
fn without_generation_tags(template: &str) -> String {
    let mut out = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        out += before;
        let Some(end) = tag.find("%}") else {
            rest = tag;
            break;
        };
        let inner = &tag[2..end];
        let word =
            inner.trim_matches(|letter: char| letter == '-' || letter == '+' || letter.is_whitespace());
        let replaced = match word {
            "generation" => Some("if true"),
            "endgeneration" => Some("endif"),
            _ => None,
        };
        match replaced {
            Some(replaced) => {
                out += &tag[..end + 2].replace(word, replaced);
                rest = &tag[end + 2..];
            }
            // A text within a tag may have the letters that end tags: go on behind the beginning of this one.
            None => {
                out += "{%";
                rest = &tag[2..];
            }
        }
    }
    out + rest
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::chat::json::Json;

    fn render(template: &str, variables: &str) -> Result<String> {
        Engine::new(template, Date::read("2026-11-27"))?
            .render(values::value(&Json::read(variables).unwrap()).unwrap())
    }

    #[test]
    fn templates_are_written_as_in_python() {
        for (template, text) in [
            // Values.
            (
                "{{ x.t }} {{ x.n }} {{ x.f }} {{ 0.1 + 0.2 }} {{ missing }}",
                "True None 1e-05 0.30000000000000004 ",
            ),
            ("{{ x.l }} {{ x.o }}", r#"[1, 'a', None, "it's"] {'b': True, 'a': 2}"#),
            ("{{ 'a' ~ x.t ~ x.n }}", "aTrueNone"),
            ("{{ 7 // 2 }} {{ -7 % 3 }} {{ 6 / 2 }} {{ 2 ** 3 }}", "3 2 3.0 8"),
            // JSON.
            ("{{ x.o | tojson }}", r#"{"b": true, "a": 2}"#),
            ("{{ {'z': 1, 'a': '<é&\\'>'} | tojson }}", r#"{"z": 1, "a": "<é&'>"}"#),
            ("{{ 'é' | tojson(ensure_ascii=True) }}", "\"\\u00e9\""),
            ("{{ x.o | tojson(indent=2) }}", "{\n  \"b\": true,\n  \"a\": 2\n}"),
            ("{{ [[], {}, [1]] | tojson(indent=1) }}", "[\n [],\n {},\n [\n  1\n ]\n]"),
            ("{{ x.o | tojson(separators=(',', ':'), sort_keys=true) }}", r#"{"a":2,"b":true}"#),
            ("{{ x.f | tojson }} {{ 1e20 | tojson }} {{ 2.0 | tojson }}", "1e-05 1e+20 2.0"),
            // Blocks: the line of a block vanishes.
            ("a\n  {% if true %}\nb\n  {% endif %}\nc\n", "a\nb\nc"),
            (
                "{% for i in [1, 2, 3, 4] %}{% if i == 2 %}{% continue %}{% elif i == 4 %}{% break %}{% endif %}{{ i }}{% endfor %}",
                "13",
            ),
            (
                "{%- set ns = namespace(n=0) %}{% for i in [1, 2] %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}",
                "3",
            ),
            (
                "{% for i in [1, 2] %}{{ loop.previtem }}{{ loop.nextitem is defined }}{% endfor %}",
                "True1False",
            ),
            ("{% macro m(a, b='y') %}{{ a }}{{ b }}{% endmacro %}{{ m('x') }}{{ m('x', b=1) }}", "xyx1"),
            ("a\n  {%- generation %}b{{ '%}' }}{% endgeneration -%}\n c", "ab%}c"),
            ("{{ [1, 2, 3][::-1] }} {{ 'abc'[-1] }} {{ 'abc'[:2] }}", "[3, 2, 1] c ab"),
            // Methods.
            (
                "{{ '\\x1c a\\n'.strip() }}|{{ 'xax'.strip('x') }}|{{ ' a '.rstrip() }}|{{ ' a ' | trim }}",
                "a|a| a|a",
            ),
            ("{{ 'a</t>b</t>c'.split('</t>')[-1] }} {{ 'ab'.startswith(('x', 'a')) }}", "c True"),
            ("{{ 'abc'.removeprefix('a').removesuffix('c') }} {{ 'a-b'.replace('-', '+') }}", "b a+b"),
            ("{% for k, v in x.o.items() %}{{ k }}{{ v }}{% endfor %}{{ x.o.get('q', 5) }}", "bTruea25"),
            (
                "{{ x.o is sequence }} {{ 'a' is sequence }} {{ 1 is sequence }} {{ x.o is mapping }}",
                "True True False True",
            ),
            (
                "{{ none is iterable }} {{ missing is iterable }} {{ 'a' is iterable }} {{ 1 is iterable }}",
                "False True True False",
            ),
            ("{{ missing | trim }}|{{ 1 | trim }}", "|1"),
            (
                "{{ 'a\\n\\nb\\n' | indent }}|{{ 'a\\nb' | indent(1, first=true) }}|{{ 'a\\n' | indent('-', blank=true) }}",
                "a\n\n    b\n| a\n b|a\n-",
            ),
            (
                "{{ 'a\\r\\nb\u{2028}c\\n'.splitlines() | join('|') }} {{ 'a\\nb'.splitlines(true) | length }}",
                "a|b|c 2",
            ),
            ("{{ strftime_now('%d %b %Y') }}", "27 Nov 2026"),
        ] {
            let variables = r#"{"x": {"t": true, "n": null, "f": 1e-05, "l": [1, "a", null, "it's"], "o": {"b": true, "a": 2}}}"#;
            assert_eq!(render(template, variables).unwrap(), text, "{template}");
        }
    }

    #[test]
    fn errors_say_where_and_what() {
        let no_date = Engine::new("{{ strftime_now('%Y') }}", None).unwrap();
        let no_date = no_date.render(Value::from_pairs([("a", 1)])).unwrap_err();
        for (error, parts) in [
            (render("a\n{% if %}", "{}").unwrap_err(), ["template: line 2", "syntax error"]),
            (
                render("{{ raise_exception('Roles ' ~ 'must alternate') }}", "{}").unwrap_err(),
                ["messages", "Roles must alternate"],
            ),
            (
                render("{% macro m() %}{{ raise_exception('No') }}{% endmacro %}{{ m() }}", "{}")
                    .unwrap_err(),
                ["messages", ": No"],
            ),
            (render("a\n\n{{ b.c.d }}", "{}").unwrap_err(), ["template: line 3", "undefined"]),
            (render("{{ strftime_now('%H') }}", "{}").unwrap_err(), ["options.current_date", "%H"]),
            (
                render("{{ missing | tojson }}", "{}").unwrap_err(),
                ["template: line 1", "tojson cannot write"],
            ),
            (render("{% include 'other' %}", "{}").unwrap_err(), ["template: line 1", "include"]),
            (no_date, ["options.current_date", "must be set"]),
        ] {
            let text = error.to_string();
            assert!(parts.iter().all(|part| text.contains(part)), "{text}: {parts:?}");
        }
    }
}
