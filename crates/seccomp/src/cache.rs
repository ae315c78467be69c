//! Compiling once.

use std::sync::{Arc, Mutex, PoisonError};

use oci_spec::runtime::LinuxSeccomp;

use crate::{CompileError, Program, compile};

/// Profiles remembered. A node uses a handful: the default one by sets of capabilities, and its own.
const KEPT: usize = 32;

/// Programs by the profile that they were compiled from; the least recently used goes first.
#[derive(Debug, Default)]
pub struct Cache {
    /// The most recently used is last.
    programs: Mutex<Vec<(LinuxSeccomp, Arc<Program>)>>,
}

impl Cache {
    /// The program of a profile, compiled now or before. Failures are not remembered.
    pub fn compile(&self, profile: &LinuxSeccomp) -> Result<Arc<Program>, CompileError> {
        {
            let mut programs = self.programs.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(place) = programs.iter().rposition(|(known, _)| known == profile) {
                let found = programs.remove(place);
                let program = Arc::clone(&found.1);
                programs.push(found);
                return Ok(program);
            }
        }
        let program = Arc::new(compile(profile)?);
        let mut programs = self.programs.lock().unwrap_or_else(PoisonError::into_inner);
        if programs.len() >= KEPT {
            programs.remove(0);
        }
        programs.push((profile.clone(), Arc::clone(&program)));
        Ok(program)
    }
}
