//! Calendar arithmetic for the real-time clock: seconds since 1970 to date and time, and back.

/// Seconds in a day.
pub(super) const DAY: i64 = 86_400;

/// Date and time in the proleptic Gregorian calendar, UTC or whatever the guest keeps its clock in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Civil {
    pub(super) year: i64,
    /// 1 to 12.
    pub(super) month: u8,
    /// 1 to 31.
    pub(super) day: u8,
    pub(super) hour: u8,
    pub(super) minute: u8,
    pub(super) second: u8,
    /// 1 (Sunday) to 7, as the clock chip counts.
    pub(super) weekday: u8,
}

impl Civil {
    /// The date and time `seconds` after the start of 1970.
    pub(super) fn from_unix(seconds: i64) -> Self {
        let days = seconds.div_euclid(DAY);
        let rest = seconds.rem_euclid(DAY);
        // Years are counted from March, so that the leap day is the last of its year; days from the
        // first of March of year 0, in cycles of 400 years.
        let days_since = days.saturating_add(719_468);
        let cycle = days_since.div_euclid(146_097);
        let day_of_cycle = days_since.rem_euclid(146_097);
        let leap_days = day_of_cycle / 1_460 - day_of_cycle / 36_524 + day_of_cycle / 146_096;
        let year_of_cycle = (day_of_cycle - leap_days) / 365;
        let day_of_year =
            day_of_cycle - (365 * year_of_cycle + year_of_cycle / 4 - year_of_cycle / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 {
            month_from_march + 3
        } else {
            month_from_march - 9
        };
        Self {
            year: year_of_cycle + cycle * 400 + i64::from(month <= 2),
            month: month as u8,
            day: day as u8,
            hour: (rest / 3600) as u8,
            minute: (rest / 60 % 60) as u8,
            second: (rest % 60) as u8,
            // The first of January 1970 was a Thursday, the fifth day.
            weekday: ((days + 4).rem_euclid(7) + 1) as u8,
        }
    }

    /// Seconds since the start of 1970. Fields past their range carry into the next, as far as their
    /// types go; the weekday is not looked at.
    pub(super) fn to_unix(self) -> i64 {
        let month = i64::from(self.month.clamp(1, 12));
        let year = self.year - i64::from(month <= 2);
        let cycle = year.div_euclid(400);
        let year_of_cycle = year.rem_euclid(400);
        let month_from_march = (month + 9) % 12;
        let day_of_year = (153 * month_from_march + 2) / 5 + i64::from(self.day) - 1;
        let day_of_cycle =
            year_of_cycle * 365 + year_of_cycle / 4 - year_of_cycle / 100 + day_of_year;
        let days = cycle * 146_097 + day_of_cycle - 719_468;
        days * DAY
            + i64::from(self.hour) * 3600
            + i64::from(self.minute) * 60
            + i64::from(self.second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_moments() {
        let check = |seconds, year, month, day, hour, weekday| {
            let civil = Civil::from_unix(seconds);
            let found = (
                civil.year,
                civil.month,
                civil.day,
                civil.hour,
                civil.weekday,
            );
            assert_eq!(found, (year, month, day, hour, weekday));
            assert_eq!(civil.to_unix(), seconds);
        };
        check(0, 1970, 1, 1, 0, 5);
        check(951_782_400, 2000, 2, 29, 0, 3);
        check(951_868_800, 2000, 3, 1, 0, 4);
        check(4_107_542_400, 2100, 3, 1, 0, 2);
        check(1_735_689_600 - 3600, 2024, 12, 31, 23, 3);
        check(-DAY, 1969, 12, 31, 0, 4);
    }

    #[test]
    fn every_day_of_four_centuries_comes_back() {
        for day in (-200_000..200_000).step_by(7) {
            let civil = Civil::from_unix(day * DAY + 12_345);
            assert_eq!(civil.to_unix(), day * DAY + 12_345);
        }
    }
}
