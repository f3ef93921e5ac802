//! Documents as tables for people.

use serde_json::Value;

/// A column: its heading, and where its value is in an item.
pub type Column = (&'static str, &'static str);

/// Prints items as a table; a column's path is dotted.
pub fn print(items: &[Value], columns: &[Column]) {
    print!("{}", render(items, columns));
}

fn render(items: &[Value], columns: &[Column]) -> String {
    let heading: Vec<String> = columns.iter().map(|(name, _)| name.to_uppercase()).collect();
    let mut rows = vec![heading];
    rows.extend(
        items
            .iter()
            .map(|item| columns.iter().map(|(_, path)| cell(at(item, path))).collect()),
    );
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let line: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        text.push_str(line.join("  ").trim_end());
        text.push('\n');
    }
    text
}

fn at<'a>(item: &'a Value, path: &str) -> &'a Value {
    path.split('.').fold(item, |value, key| &value[key])
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn columns_line_up() {
        let items = [
            json!({"name": "a", "log": {"bytes": 12}}),
            json!({"name": "longer", "log": {}}),
        ];
        let text = render(&items, &[("name", "name"), ("bytes", "log.bytes")]);
        assert_eq!(text, "NAME    BYTES\na       12\nlonger  -\n");
    }
}
