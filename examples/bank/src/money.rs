//! Money in cents: typed and printed as `12.50`.

use std::{
    fmt,
    iter::Sum,
    ops::{Add, AddAssign, SubAssign},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Cents(pub u64);

impl FromStr for Cents {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = "an amount is of the form 12 or 12.50, more than nothing and at most a billion";
        let (euros, cents) = text.split_once('.').unwrap_or((text, "00"));
        let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit()).then(|| part.parse::<u64>().ok());
        match (digits(euros).flatten(), digits(cents).flatten(), cents.len()) {
            (Some(euros @ 0..=1_000_000_000), Some(cents), 2) if euros + cents > 0 => Ok(Self(euros * 100 + cents)),
            _ => Err(invalid),
        }
    }
}
impl fmt::Display for Cents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}.{:02}", self.0 / 100, self.0 % 100))
    }
}
impl Add for Cents {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }
}
impl AddAssign for Cents {
    fn add_assign(&mut self, other: Self) {
        self.0 += other.0;
    }
}
impl SubAssign for Cents {
    fn sub_assign(&mut self, other: Self) {
        self.0 -= other.0;
    }
}
impl Sum for Cents {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self(0), Add::add)
    }
}

#[cfg(test)]
mod tests {
    use super::Cents;

    #[test]
    fn amounts_are_read_and_printed() {
        assert_eq!("12.50".parse(), Ok(Cents(1250)));
        assert_eq!("3".parse(), Ok(Cents(300)));
        assert_eq!(Cents(1205).to_string(), "12.05");
        for wrong in ["", ".", "-1", "+1", "0", "0.00", "1.5", "1.505", "1e3", "99999999999"] {
            assert!(wrong.parse::<Cents>().is_err(), "{wrong}");
        }
    }
}
