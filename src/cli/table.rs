//! Tables on a terminal, and the same rows as TSV.
//!
//! No crate of tables is used: the rules that matter here, which columns are never cut and which ones are left out first on a
//! narrow terminal, would be as long on top of one.

use unicode_width::UnicodeWidthStr;

use super::printable;

/// A column of a table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    pub(crate) title: &'static str,
    /// A column that is shown whole, however narrow the terminal is: a path is useless if it is cut.
    whole: bool,
    /// A column that is left out first, because another one says the same.
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

/// Lines of a table of at most `width` columns of the terminal. If the rows are wider, columns are left out, first
/// the spare ones and then from the last one, and lines that are too wide even so stay whole.
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
        && let Some(place) = (shown.iter().position(|i| columns[*i].spare))
            .or_else(|| shown.iter().rposition(|i| !columns[*i].whole))
    {
        shown.remove(place);
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
    fn columns_other_than_the_path_are_left_out_on_a_narrow_terminal() {
        let wide = lines(&COLUMNS, &rows(), 80);
        assert_eq!(
            wide,
            ["NAME  LAST USE   PATH", "a     today [2J  tinker://r/weights/x", "日本             p"]
        );
        assert_eq!(lines(&COLUMNS, &rows(), 30)[1], "a     tinker://r/weights/x");
        assert_eq!(lines(&COLUMNS, &rows(), 5)[1], "tinker://r/weights/x");
    }

    #[test]
    fn a_spare_column_is_left_out_first() {
        let columns = [Column::spare("Id"), Column::new("Type"), Column::never_cut("Path")];
        let rows = [vec!["x".into(), "t".into(), "p/x".into()]];
        let headers = [20, 11, 8].map(|width| lines(&columns, &rows, width)[0].clone());
        assert_eq!(headers, ["ID  TYPE  PATH", "TYPE  PATH", "PATH"]);
    }

    #[test]
    fn tsv_has_all_columns_and_no_control_characters() {
        assert_eq!(
            tsv(&COLUMNS, &rows())[..2],
            ["name\tlast_use\tpath", "a\ttoday [2J\ttinker://r/weights/x"]
        );
    }
}
