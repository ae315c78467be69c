use std::fmt;

use serde::de::{self, Deserialize, Deserializer, Visitor};

/// A Kubernetes quantity: `500m`, `0.5`, `128Mi`, `1e3`. Kept in thousandths, rounded up, as Kubernetes does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Quantity {
    milli: i128,
}

impl Quantity {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a quantity; write it like 500m, 1.5 or 128Mi");
        let split = text
            .find(|c: char| !c.is_ascii_digit() && c != '.' && c != '+' && c != '-')
            .unwrap_or(text.len());
        let (number, suffix) = text.split_at(split);
        let (sign, digits) = match number.strip_prefix('-') {
            Some(digits) => (-1, digits),
            None => (1, number.strip_prefix('+').unwrap_or(number)),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let all_digits = |t: &str| t.len() <= 18 && t.bytes().all(|b| b.is_ascii_digit());
        if !all_digits(whole) || !all_digits(fraction) || (whole.is_empty() && fraction.is_empty())
        {
            return Err(wrong());
        }
        // value = mantissa / 10^places * numerator / denominator
        let mantissa: i128 = format!("{whole}{fraction}").parse().map_err(|_| wrong())?;
        let divisor = 10_i128.pow(fraction.len() as u32);
        let milli_per_unit: i128 = match suffix {
            "n" => {
                return Ok(Self {
                    milli: sign * ceiling(mantissa, divisor * 1_000_000),
                });
            }
            "u" => {
                return Ok(Self {
                    milli: sign * ceiling(mantissa, divisor * 1_000),
                });
            }
            "m" => 1,
            "" => 1_000,
            "k" => 1_000_000,
            "M" => 1_000_000_000,
            "G" => 1_000_000_000_000,
            "T" => 1_000_000_000_000_000,
            "P" => 1_000_000_000_000_000_000,
            "Ki" => 1_000 << 10,
            "Mi" => 1_000 << 20,
            "Gi" => 1_000 << 30,
            "Ti" => 1_000 << 40,
            "Pi" => 1_000 << 50,
            _ => exponent(suffix).ok_or_else(wrong)?,
        };
        let product = mantissa.checked_mul(milli_per_unit).ok_or_else(wrong)?;
        Ok(Self {
            milli: sign * ceiling(product, divisor),
        })
    }

    /// Thousandths: CPU in millicores.
    pub(super) fn milli(self) -> Option<i64> {
        i64::try_from(self.milli).ok()
    }

    /// Rounded up: memory in bytes.
    pub(super) fn whole(self) -> Option<i64> {
        i64::try_from(ceiling(self.milli, 1_000)).ok()
    }
}

/// `e3`, `E3`: in thousandths.
fn exponent(suffix: &str) -> Option<i128> {
    let power: u32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
    (power <= 18).then(|| 1_000 * 10_i128.pow(power))
}

fn ceiling(value: i128, divisor: i128) -> i128 {
    value.div_euclid(divisor) + i128::from(value.rem_euclid(divisor) != 0)
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl Visitor<'_> for Text {
            type Value = Quantity;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a quantity like 500m, 1.5 or 128Mi")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Quantity, E> {
                Quantity::parse(text).map_err(E::custom)
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Quantity, E> {
                Ok(Quantity {
                    milli: i128::from(number) * 1_000,
                })
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Quantity, E> {
                Ok(Quantity {
                    milli: i128::from(number) * 1_000,
                })
            }

            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Quantity, E> {
                Quantity::parse(&number.to_string()).map_err(E::custom)
            }
        }

        deserializer.deserialize_any(Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_read_as_kubernetes_writes_them() {
        for (text, milli) in [
            ("500m", 500),
            ("0.5", 500),
            (".5", 500),
            ("2", 2_000),
            ("1e3", 1_000_000),
            ("100u", 1),
            ("1n", 1),
            ("0.0001", 1),
            ("128Mi", 128 * 1_024 * 1_024 * 1_000),
            ("1.5Ki", 1_536_000),
            ("3k", 3_000_000),
            ("-1", -1_000),
        ] {
            assert_eq!(Quantity::parse(text).unwrap().milli, milli, "{text}");
        }
        assert_eq!(Quantity::parse("1500m").unwrap().whole(), Some(2));
        for wrong in [
            "",
            "m",
            "1 Mi",
            "1mb",
            "Mi",
            "1..2",
            "--1",
            "1e99",
            "1.2.3",
            "9999999999999999999",
        ] {
            assert!(Quantity::parse(wrong).is_err(), "{wrong}");
        }
    }
}
