//! The report's file: what stands between markers is replaced, the rest stays.
//!
//! - A part begins with a line `<!-- NAME: begin -->` and ends with `<!-- NAME: end -->`.
//! - Plots go into a directory beside the report. They are written first, then the report appears whole.
//! - A file that is not there is begun with the markers of all parts.

use std::fs;
use std::path::{Path, PathBuf};

use super::parts::Part;
use super::trouble::LabError;

/// Where plots are, seen from the report.
const IMAGES: &str = "docs/images/report";

/// A report, and what it is to become.
#[derive(Debug)]
pub(super) struct Page {
    path: PathBuf,
    text: String,
    images: Vec<(String, String)>,
}

impl Page {
    /// # Errors
    /// The system refuses.
    pub(super) fn read(path: &Path) -> Result<Page, LabError> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => empty(),
            Err(error) => return Err(LabError::file(path, error)),
        };
        Ok(Page { path: path.to_owned(), text, images: Vec::new() })
    }

    /// # Errors
    /// A part has no place.
    pub(super) fn check(&self, parts: &[Part]) -> Result<(), LabError> {
        parts.iter().try_for_each(|part| self.place(*part).map(drop))
    }

    /// Puts a text in a part's place.
    ///
    /// # Errors
    /// It has none.
    pub(super) fn put(&mut self, part: Part, text: &str) -> Result<(), LabError> {
        let (from, to) = self.place(part)?;
        self.text.replace_range(from..to, &format!("\n{}\n", text.trim()));
        Ok(())
    }

    /// Takes a plot along, and gives the words that show it.
    pub(super) fn image(&mut self, name: &str, shows: &str, svg: String) -> String {
        self.images.push((format!("{name}.svg"), svg));
        format!("![{shows}]({IMAGES}/{name}.svg)\n")
    }

    /// # Errors
    /// The system refuses; then the report is as it was.
    pub(super) fn save(&self) -> Result<(), LabError> {
        let directory = self.path.parent().unwrap_or(Path::new(""));
        let images = directory.join(IMAGES);
        if !self.images.is_empty() {
            fs::create_dir_all(&images).map_err(|source| LabError::file(&images, source))?;
        }
        for (name, svg) in &self.images {
            replace(&images.join(name), svg)?;
        }
        replace(&self.path, &self.text)
    }

    /// Where a part's text lies: behind its first marker, up to the second one.
    fn place(&self, part: Part) -> Result<(usize, usize), LabError> {
        let (begin, end) = markers(part);
        let missing = || LabError::Markers { path: self.path.clone(), begin: begin.clone(), end: end.clone() };
        let from = self.text.find(&begin).ok_or_else(missing)? + begin.len();
        let to = self.text[from..].find(&end).ok_or_else(missing)?;
        Ok((from, from + to))
    }
}

fn markers(part: Part) -> (String, String) {
    let name = part.name();
    (format!("<!-- {name}: begin -->"), format!("<!-- {name}: end -->"))
}

fn empty() -> String {
    let mut text = "# Lab report\n".to_owned();
    for part in Part::ALL {
        let (begin, end) = markers(part);
        text.push_str(&format!("\n## {}\n\n{begin}\n{end}\n", part.title()));
    }
    text
}

/// Whole or not at all.
fn replace(path: &Path, text: &str) -> Result<(), LabError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let temporary = path.with_file_name(name);
    fs::write(&temporary, text).and_then(|()| fs::rename(&temporary, path)).map_err(|source| LabError::file(path, source))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_stands_around_the_markers_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("REPORT.md");
        fs::write(&path, "before\n<!-- growth: begin -->\nold\nold\n<!-- growth: end -->\nbehind\n").unwrap();
        let mut page = Page::read(&path).unwrap();
        let image = page.image("a", "what it shows", "<svg/>".to_owned());
        page.put(Part::Growth, &format!("\nnew\n{image}")).unwrap();
        assert!(fs::read_to_string(&path).unwrap().contains("old"), "nothing is written before it is saved");
        page.save().unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let shown = "![what it shows](docs/images/report/a.svg)";
        assert_eq!(text, format!("before\n<!-- growth: begin -->\nnew\n{shown}\n<!-- growth: end -->\nbehind\n"));
        assert_eq!(fs::read_to_string(directory.path().join(IMAGES).join("a.svg")).unwrap(), "<svg/>");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2, "no temporary file is left");
    }

    #[test]
    fn a_part_without_a_place_is_said_before_anything_is_measured() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("REPORT.md");
        for text in ["", "<!-- growth: end --><!-- growth: begin -->", "<!-- growth: begin -->"] {
            fs::write(&path, text).unwrap();
            let error = Page::read(&path).unwrap().check(&[Part::Growth]).unwrap_err();
            assert!(matches!(error, LabError::Markers { .. }), "{text}");
        }
    }

    #[test]
    fn a_new_report_has_a_place_for_every_part() {
        let directory = tempfile::tempdir().unwrap();
        let page = Page::read(&directory.path().join("REPORT.md")).unwrap();
        page.check(&Part::ALL).unwrap();
    }
}
