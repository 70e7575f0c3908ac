//! `docs/json.md`, read as a table of what each verb's document must be.

use std::collections::BTreeMap;

use serde_json::Value;

/// What a page says of one field.
#[derive(Debug)]
struct Field {
    kind: String,
    meaning: String,
    /// Whether a document had it.
    seen: bool,
}

/// The page: fields by section and path.
#[derive(Debug)]
pub struct Page {
    driver: &'static str,
    sections: BTreeMap<String, BTreeMap<String, Field>>,
}

impl Page {
    /// The page, for documents of this driver.
    pub fn of(driver: &'static str) -> Self {
        let mut page = Self {
            driver,
            sections: BTreeMap::new(),
        };
        let mut section = String::new();
        for line in include_str!("../../docs/json.md").lines() {
            if let Some(title) = line.strip_prefix("## ") {
                section = title.to_owned();
            }
            let Some(row) = line.strip_prefix("| `") else { continue };
            let mut cells = row.trim_end_matches('|').splitn(3, '|').map(str::trim);
            let mut cell = || cells.next().expect("three cells").to_owned();
            let path = cell().trim_end_matches('`').to_owned();
            let field = Field {
                kind: cell(),
                meaning: cell(),
                seen: false,
            };
            page.sections.entry(section.clone()).or_default().insert(path, field);
        }
        page
    }

    /// Wants a document to have what its section says, and nothing else.
    #[track_caller]
    pub fn holds(&mut self, section: &str, document: &Value) {
        let fields = self.sections.get_mut(section).expect("a section of the page");
        let mut found = Vec::new();
        walk(document, String::new(), fields, &mut found);
        for (path, kind) in found {
            let Some(field) = fields.get_mut(&path) else {
                panic!("{section}: {path:?} is not on the page: {document:#}");
            };
            let fits = match field.kind.as_str() {
                "document" | "nodes" => true,
                kinds => kinds.split(" or ").any(|one| one == kind),
            };
            assert!(fits, "{section}: {path:?} is {kind}, not {}", field.kind);
            field.seen |= kind != "null" || field.kind == "document";
        }
    }

    /// Wants every field of these sections to have been seen with a value, as far as it is this driver's.
    #[track_caller]
    pub fn was_all_seen(&self, sections: &[&str]) {
        for section in sections {
            for (path, field) in &self.sections[*section] {
                let others = ["thin:", "overlay:"]
                    .iter()
                    .any(|prefix| field.meaning.starts_with(prefix) && !prefix.starts_with(self.driver));
                assert!(field.seen || others, "{section}: no document had {path:?}");
            }
        }
    }
}

/// Every leaf's path and type. A `document` is no further concern of the page's.
fn walk(value: &Value, path: String, fields: &BTreeMap<String, Field>, found: &mut Vec<(String, &'static str)>) {
    let is_leaf = fields
        .get(&path)
        .is_some_and(|field| matches!(field.kind.as_str(), "document" | "nodes"));
    let kind = match value {
        Value::Object(items) if !is_leaf => {
            for (name, item) in items {
                let dot = if path.is_empty() { "" } else { "." };
                walk(item, format!("{path}{dot}{name}"), fields, found);
            }
            return;
        }
        Value::Array(items) if !is_leaf => {
            for item in items {
                walk(item, format!("{path}[]"), fields, found);
            }
            return;
        }
        Value::Object(_) => "object",
        Value::Array(_) => "list",
        Value::String(_) => "string",
        Value::Number(_) => "number",
        Value::Bool(_) => "boolean",
        Value::Null => "null",
    };
    found.push((path, kind));
}
