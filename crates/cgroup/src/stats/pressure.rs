//! Pressure stall information: how long processes have waited for what they had not.

use rustix::io::Errno;

use super::file::{File, SampleError};

/// Of one resource.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pressure {
    /// Some process waited.
    pub some: Stall,
    /// Every process that would have run waited. The kernel knows none for CPUs of the machine as a whole.
    pub full: Stall,
}

#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Stall {
    pub total_us: u64,
    /// Share of the last 10 s, in percent.
    pub avg10: f64,
    pub avg60: f64,
    pub avg300: f64,
}

/// `None` where the kernel was told not to count (`psi=0`).
pub(super) fn sample(file: &File, buffer: &mut Vec<u8>) -> Result<Option<Pressure>, SampleError> {
    match file.text(buffer) {
        Ok(text) => match parse(text) {
            Some(pressure) => Ok(Some(pressure)),
            None => Err(file.unexpected(text)),
        },
        Err(SampleError::Read {
            source: Errno::OPNOTSUPP,
            ..
        }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and the same for `full`, which old kernels leave out.
fn parse(text: &str) -> Option<Pressure> {
    let mut pressure = Pressure::default();
    for line in text.lines() {
        let (kind, fields) = line.split_once(' ')?;
        let stall = match kind {
            "some" => &mut pressure.some,
            "full" => &mut pressure.full,
            _ => continue,
        };
        for field in fields.split_whitespace() {
            let (name, value) = field.split_once('=')?;
            match name {
                "avg10" => stall.avg10 = value.parse().ok()?,
                "avg60" => stall.avg60 = value.parse().ok()?,
                "avg300" => stall.avg300 = value.parse().ok()?,
                "total" => stall.total_us = value.parse().ok()?,
                _ => {}
            }
        }
    }
    Some(pressure)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_lines_or_one() {
        let some = "some avg10=1.50 avg60=0.25 avg300=0.05 total=1234\n";
        let full = "full avg10=0.50 avg60=0.00 avg300=0.00 total=34 new=1\n";
        let both = parse(&format!("{some}{full}")).unwrap();
        let expected = Stall {
            total_us: 1234,
            avg10: 1.5,
            avg60: 0.25,
            avg300: 0.05,
        };
        assert_eq!(both.some, expected);
        assert_eq!((both.full.total_us, both.full.avg10), (34, 0.5));
        assert_eq!(parse(some).unwrap().full, Stall::default());
        assert_eq!(parse("some avg10=x total=1"), None);
        assert_eq!(parse("nothing"), None);
    }
}
