use std::cell::RefCell;

use crate::files;
use crate::hierarchy::{Hierarchies, Hierarchy};

/// What a change of limits has written, and what was there before.
#[derive(Debug)]
pub(crate) struct Journal {
    hierarchies: Hierarchies,
    written: RefCell<Vec<Written>>,
}

#[derive(Debug)]
struct Written {
    hierarchy: usize,
    path: String,
    file: String,
    before: String,
}

impl Journal {
    pub(crate) fn new(hierarchies: &Hierarchies) -> Self {
        Self {
            hierarchies: hierarchies.clone(),
            written: RefCell::default(),
        }
    }

    pub(crate) fn note(&self, hierarchy: &Hierarchy, path: &str, file: &str, before: String) {
        if let Some(hierarchy) = self.hierarchies.position(hierarchy) {
            self.written.borrow_mut().push(Written {
                hierarchy,
                path: path.to_owned(),
                file: file.to_owned(),
                before,
            });
        }
    }

    /// Puts back what was there, the last first. Values were in force a moment ago; one that the kernel does not take back all the same
    /// stays as it is, and the error that led here is the one to tell.
    pub(crate) fn undo(&self) {
        for written in self.written.borrow_mut().drain(..).rev() {
            // An empty value, of a v2 cpuset, is written as an empty line.
            let value = match written.before.trim_end() {
                "" => "\n",
                value => value,
            };
            let hierarchy = &self.hierarchies.all()[written.hierarchy];
            let _ = files::write(hierarchy, &written.path, &written.file, value);
        }
    }
}
