//! Which files are read.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::errors::{Place, Problem};

/// Read when `--config` does not say; it may be missing.
const DEFAULT_FILE: &str = "/etc/longshore/config.toml";

/// The directory of drop-ins, beside the file.
const DROP_INS: &str = "conf.d";

/// A file and its text.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) path: PathBuf,
    pub(super) text: String,
}

impl Source {
    /// Where the byte `offset` of the text stands.
    pub(super) fn place(&self, offset: usize) -> Place {
        let (line, column) = position(&self.text, offset);
        Place::File {
            path: self.path.clone(),
            line,
            column,
        }
    }
}

/// Line and column from 1; columns count characters.
pub(super) fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let line = before.matches('\n').count() + 1;
    (line, before[line_start..].chars().count() + 1)
}

/// The file and its drop-ins (`conf.d/*.toml` beside it) in the order of their names, so that later ones win.
pub(super) fn read(named: Option<&Path>) -> (Vec<Source>, Vec<Problem>) {
    let file = named.unwrap_or(Path::new(DEFAULT_FILE));
    let (mut sources, mut problems) = (Vec::new(), Vec::new());
    let drop_ins = match list(&file.with_file_name(DROP_INS)) {
        Ok(paths) => paths,
        Err(problem) => {
            problems.push(problem);
            Vec::new()
        }
    };
    for path in std::iter::once(file.to_owned()).chain(drop_ins) {
        match std::fs::read_to_string(&path) {
            Ok(text) => sources.push(Source { path, text }),
            Err(error) if missing(&error) && named.is_none() && path == file => {}
            Err(source) => problems.push(Problem::Read { path, source }),
        }
    }
    (sources, problems)
}

fn list(directory: &Path) -> Result<Vec<PathBuf>, Problem> {
    let unreadable = |source| Problem::Read {
        path: directory.to_owned(),
        source,
    };
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if missing(&error) => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(error)),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(unreadable)?.path();
        let hidden = path
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden
            && path
                .extension()
                .is_some_and(|extension| extension == "toml")
        {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn missing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}
