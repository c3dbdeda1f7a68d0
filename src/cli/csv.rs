//! Comma-separated values (RFC 4180).

use super::connection::App;
use super::failure::Failure;

/// Writes rows with a header to a file, or to stdout if `target` is `-`.
pub(crate) fn write(
    target: &str,
    columns: &[impl AsRef<str>],
    rows: &[Vec<String>],
    app: &App,
) -> Result<(), Failure> {
    let text = text(columns, rows);
    if target == "-" {
        return app.out.bytes(text.as_bytes());
    }
    std::fs::write(target, text).map_err(|error| Failure::text(format!("cannot write to {target}: {error}")))
}

fn text(columns: &[impl AsRef<str>], rows: &[Vec<String>]) -> String {
    let line =
        |cells: &mut dyn Iterator<Item = &str>| cells.map(quoted).collect::<Vec<_>>().join(",") + "\r\n";
    let header = line(&mut columns.iter().map(AsRef::as_ref));
    let rows = rows.iter().map(|row| line(&mut row.iter().map(String::as_str)));
    [header].into_iter().chain(rows).collect()
}

fn quoted(cell: &str) -> String {
    if cell.contains(['"', ',', '\n', '\r']) {
        format!("\"{}\"", cell.replace('"', "\"\""))
    } else {
        cell.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_with_commas_quotes_and_line_breaks_are_quoted() {
        let rows = [vec!["a,b".to_owned(), "say \"hi\"\n".to_owned()], vec![String::new(), "x".to_owned()]];
        let expected = "one,two\r\n\"a,b\",\"say \"\"hi\"\"\n\"\r\n,x\r\n";
        assert_eq!(text(&["one", "two"], &rows), expected);
    }
}
