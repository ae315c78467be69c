use std::ffi::{CStr, CString};

use rustix::io::Errno;

use crate::clone::last_error;

/// Strings in the shape that `execve(2)` wants: an array of pointers with a null at its end.
#[derive(Debug)]
pub struct CStrings {
    /// Own what `pointers` point to. A `CString`'s bytes stay where they are when the vector grows.
    strings: Vec<CString>,
    pointers: Vec<*const libc::c_char>,
}

impl CStrings {
    #[must_use]
    pub fn new(strings: Vec<CString>) -> Self {
        // One to spare, so that a child can add one without growing.
        let mut pointers = Vec::with_capacity(strings.len() + 2);
        pointers.extend(strings.iter().map(|string| string.as_ptr()));
        pointers.push(std::ptr::null());
        Self { strings, pointers }
    }

    pub fn push(&mut self, string: CString) {
        let end = self.pointers.len() - 1;
        self.pointers[end] = string.as_ptr();
        self.pointers.push(std::ptr::null());
        self.strings.push(string);
    }

    pub fn iter(&self) -> impl Iterator<Item = &CStr> {
        self.strings.iter().map(CString::as_c_str)
    }
}

/// `execve(2)`. Returns only if it has failed.
pub fn execute(program: &CStr, args: &CStrings, env: &CStrings) -> Errno {
    // SAFETY: `program` is a C string, and both arrays are of C strings that their owners keep alive, ended by a null.
    unsafe {
        libc::execve(
            program.as_ptr(),
            args.pointers.as_ptr(),
            env.pointers.as_ptr(),
        )
    };
    last_error()
}
