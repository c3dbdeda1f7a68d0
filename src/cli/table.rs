//! Tables on a terminal, and the same rows as TSV.
//!
//! No crate of tables is used: the rules that matter here, which columns are never cut, which ones are left out first on a
//! narrow terminal, and how a row is written that does not fit, would be as long on top of one.

use unicode_width::UnicodeWidthStr;

use super::printable;

/// A column of a table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    pub(crate) title: &'static str,
    /// A column that is shown whole, however narrow the terminal is: a path is useless if it is cut.
    whole: bool,
    /// A column that is left out if the table does not fit, because another one says the same, or is more important.
    spare: bool,
}

impl Column {
    pub(crate) const fn new(title: &'static str) -> Self {
        Column { title, whole: false, spare: false }
    }

    pub(crate) const fn never_cut(title: &'static str) -> Self {
        Column { title, whole: true, spare: false }
    }

    pub(crate) const fn spare(title: &'static str) -> Self {
        Column { title, whole: false, spare: true }
    }
}

const GAP: &str = "  ";

/// Lines of a table of at most `width` columns of the terminal. If the rows are wider, spare columns are left out. If
/// they are too wide even so, each row becomes a record of several lines, without a header. A table whose columns are
/// all whole has no other form.
pub(crate) fn lines(columns: &[Column], rows: &[Vec<String>], width: usize) -> Vec<String> {
    let clean: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|it| printable::line(it)).collect()).collect();
    let widths: Vec<usize> = (0..columns.len())
        .map(|i| {
            clean
                .iter()
                .filter_map(|row| row.get(i))
                .map(|it| it.width())
                .chain([columns[i].title.width()])
                .max()
                .unwrap_or(0)
        })
        .collect();
    let mut shown: Vec<usize> = (0..columns.len()).collect();
    let total = |shown: &[usize]| {
        shown.iter().map(|i| widths[*i] + GAP.len()).sum::<usize>().saturating_sub(GAP.len())
    };
    while width < total(&shown)
        && let Some(place) = shown.iter().position(|i| columns[*i].spare)
    {
        shown.remove(place);
    }
    if width < total(&shown) && !rows.is_empty() && columns.iter().any(|it| !it.whole) {
        return clean.iter().flat_map(|row| record(columns, row, width)).collect();
    }
    let line = |cells: &dyn Fn(usize) -> String| {
        let padded = shown.iter().map(|i| {
            let cell = cells(*i);
            let pad = widths[*i].saturating_sub(cell.width());
            cell + &" ".repeat(pad)
        });
        padded.collect::<Vec<_>>().join(GAP).trim_end().to_owned()
    };
    let header = line(&|i| columns[i].title.to_uppercase());
    let rows = clean.iter().map(|row| line(&|i| row.get(i).cloned().unwrap_or_default()));
    [header].into_iter().chain(rows).collect()
}

/// A row as a record: its whole cells, and below them the other ones with their titles, as far as they say something.
fn record(columns: &[Column], row: &[String], width: usize) -> Vec<String> {
    const INDENT: &str = "  ";
    let known = || columns.iter().zip(row).filter(|(_, cell)| !cell.is_empty());
    let mut whole: Vec<String> =
        known().filter(|(column, _)| column.whole).map(|(_, cell)| cell.clone()).collect();
    // Each record begins with a line that is not indented.
    if whole.is_empty()
        && let Some(column) = columns.iter().find(|it| it.whole)
    {
        whole.push(format!("(no {})", column.title.to_lowercase()));
    }
    // Such as the name of a checkpoint, with which its path ends.
    let is_told = |cell: &str| whole.iter().any(|it| it.ends_with(cell));
    let others = known().filter(|(column, cell)| !(column.whole || (column.spare && is_told(cell))));
    let others = others.map(|(column, cell)| format!("{}: {cell}", column.title));
    let below = flowed(others, width.saturating_sub(INDENT.width()));
    let below = below.into_iter().map(|line| format!("{INDENT}{line}"));
    flowed(whole.iter().cloned(), width).into_iter().chain(below).collect()
}

/// Parts in lines of at most `width` columns. A part that is longer has a line of its own.
fn flowed(parts: impl Iterator<Item = String>, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for part in parts {
        match lines.last_mut() {
            Some(line) if line.width() + GAP.width() + part.width() <= width => {
                line.push_str(GAP);
                line.push_str(&part);
            }
            _ => lines.push(part),
        }
    }
    lines
}

/// Lines of the properties of one thing: a table of at most `width` columns, or else lines as short as possible.
pub(crate) fn properties(columns: &[Column; 2], rows: &[Vec<String>], width: usize) -> Vec<String> {
    let table = lines(columns, rows, width);
    if table.iter().all(|it| it.width() <= width) {
        return table;
    }
    let line = |row: &Vec<String>| row.iter().map(|it| printable::line(it)).collect::<Vec<_>>().join(": ");
    rows.iter().map(line).collect()
}

/// Lines of tab-separated values, with the header that programs read: titles in lower case with underscores.
pub(crate) fn tsv(columns: &[Column], rows: &[Vec<String>]) -> Vec<String> {
    let header: Vec<String> = columns.iter().map(|it| it.title.to_lowercase().replace(' ', "_")).collect();
    let row = |row: &Vec<String>| row.iter().map(|it| printable::line(it)).collect::<Vec<_>>().join("\t");
    [header.join("\t")].into_iter().chain(rows.iter().map(row)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column; 3] = [Column::new("Name"), Column::new("Last Use"), Column::never_cut("Path")];

    fn rows() -> Vec<Vec<String>> {
        vec![
            vec!["a".into(), "today\x1b[2J".into(), "tinker://r/weights/x".into()],
            vec!["日本".into(), String::new(), "p".into()],
        ]
    }

    #[test]
    fn a_row_that_does_not_fit_is_a_record_whose_path_is_whole() {
        let wide = lines(&COLUMNS, &rows(), 80);
        assert_eq!(
            wide,
            ["NAME  LAST USE   PATH", "a     today [2J  tinker://r/weights/x", "日本             p"]
        );
        assert_eq!(
            lines(&COLUMNS, &rows(), 30),
            ["tinker://r/weights/x", "  Name: a  Last Use: today [2J", "p", "  Name: 日本"]
        );
        assert_eq!(
            lines(&COLUMNS, &rows(), 5)[..3],
            ["tinker://r/weights/x", "  Name: a", "  Last Use: today [2J"]
        );
        assert_eq!(lines(&COLUMNS, &[], 5), ["NAME  LAST USE  PATH"]);
        let without_path = [vec!["a".into(), "today".into(), String::new()]];
        assert_eq!(lines(&COLUMNS, &without_path, 5), ["(no path)", "  Name: a", "  Last Use: today"]);
    }

    #[test]
    fn a_spare_column_is_left_out_first() {
        let columns = [Column::spare("Id"), Column::new("Type"), Column::never_cut("Path")];
        let rows = [vec!["x".into(), "t".into(), "p/x".into()]];
        let headers = [20, 11].map(|width| lines(&columns, &rows, width)[0].clone());
        assert_eq!(headers, ["ID  TYPE  PATH", "TYPE  PATH"]);
        // The path tells the id.
        assert_eq!(lines(&columns, &rows, 9), ["p/x", "  Type: t"]);
    }

    #[test]
    fn properties_that_do_not_fit_are_not_padded() {
        const COLUMNS: [Column; 2] = [Column::never_cut("Property"), Column::never_cut("Value")];
        let rows =
            [vec!["Checkpoint ID".into(), "x".into()], vec!["Path".into(), "tinker://r/weights/x".into()]];
        assert_eq!(properties(&COLUMNS, &rows, 80)[2], "Path           tinker://r/weights/x");
        assert_eq!(properties(&COLUMNS, &rows, 30), ["Checkpoint ID: x", "Path: tinker://r/weights/x"]);
    }

    #[test]
    fn tsv_has_all_columns_and_no_control_characters() {
        assert_eq!(
            tsv(&COLUMNS, &rows())[..2],
            ["name\tlast_use\tpath", "a\ttoday [2J\ttinker://r/weights/x"]
        );
    }
}
