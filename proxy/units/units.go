// Package units has numbers as people read them: bytes, durations, times, shares
// and counts, for commands and page alike. It knows no other room.
package units

import (
	"fmt"
	"strings"
	"time"
)

// Bytes returns a number of bytes in decimal units, as docker writes them.
func Bytes(n int64) string {
	v, units := float64(n), []string{"B", "kB", "MB", "GB", "TB", "PB", "EB"}
	i := 0
	for ; v >= 999.5; i++ {
		v /= 1000
	}
	if i > 0 && v < 9.95 {
		return fmt.Sprintf("%.1f %s", v, units[i])
	}
	return fmt.Sprintf("%.0f %s", v, units[i])
}

// BytesOf returns a part of a number of bytes: 138 of 151 MB.
func BytesOf(part, whole int64) string {
	p, w := Bytes(part), Bytes(whole)
	if number, unit, _ := strings.Cut(p, " "); part == 0 || strings.HasSuffix(w, " "+unit) {
		p = number
	}
	return p + " of " + w
}

// Ratio returns a part as a share of a whole; 0 if there is nothing.
func Ratio(part, whole int64) float64 {
	if whole == 0 {
		return 0
	}
	return float64(part) / float64(whole)
}

// Percent returns a share of 0 to 1. What is not all is not 100 %.
func Percent(share float64) string {
	if share < 1 {
		share = min(share, .99)
	}
	return fmt.Sprintf("%.0f %%", share*100)
}

// Duration returns a duration in its largest unit; 0 s for a negative one.
func Duration(d time.Duration) string {
	switch d = max(d, 0); {
	case d < time.Minute:
		return fmt.Sprintf("%d s", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%d min", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", d/time.Hour)
	default:
		return fmt.Sprintf("%d d", d/(24*time.Hour))
	}
}

// Seconds is Duration for a number of seconds.
func Seconds(n int64) string { return Duration(time.Duration(n) * time.Second) }

// Ago returns how long a time is past; never for the zero time.
func Ago(t, now time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return Duration(now.Sub(t)) + " ago"
}

// Clock returns a time as a clock in the zone of now shows it, without the date
// if that is today.
func Clock(t, now time.Time) string {
	t = t.In(now.Location())
	if t.Year() == now.Year() && t.YearDay() == now.YearDay() {
		return t.Format("15:04")
	}
	return t.Format("2006-01-02 15:04")
}

// Count returns a number with the word for what is counted, in its plural if need
// be: 2 registries, 2 days.
func Count[N int | int64](n N, word string) string {
	if n == 1 {
		return "1 " + word
	}
	if strings.HasSuffix(word, "y") && !strings.HasSuffix(word, "ay") {
		return fmt.Sprintf("%d %sies", n, strings.TrimSuffix(word, "y"))
	}
	return fmt.Sprintf("%d %ss", n, word)
}

// Digest returns a digest as docker shortens it.
func Digest[S ~string](digest S) string {
	algorithm, hex, ok := strings.Cut(string(digest), ":")
	if !ok {
		return algorithm
	}
	return algorithm + ":" + hex[:min(len(hex), 12)]
}
