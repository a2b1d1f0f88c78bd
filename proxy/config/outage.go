package config

import (
	"errors"
	"strconv"
)

// Days is a number of days.
type Days int

// maxDays is ten years: longer windows are mistakes.
const maxDays = 3650

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Days) UnmarshalText(text []byte) error {
	n, err := strconv.Atoi(string(text))
	if err != nil || n < 1 || n > maxDays {
		return errors.New("want a number of days from 1 to 3650, without a unit")
	}
	*d = Days(n)
	return nil
}
