package config

import (
	"math"
	"testing"
)

// FuzzNumbers: no text makes the parsers of durations, sizes, shares and
// floors panic, and what they accept is positive and finite.
func FuzzNumbers(f *testing.F) {
	for _, seed := range []string{
		"", "30s", "7d", "1d12h", "1.5d", "NaNd-5m", "36500d2562047h", "0d", "2d-12h",
		"50GiB", "50 Gi", "500GB", "1e18", "NaN", "+InfTB", "-1", "0x1p62", "9223372036854775807",
		"60%", "100%", "5e-324%", "NaN%", "max(5%,2GiB)", "max(", "max()", "max(0)", "0", "5%,2GiB",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if d, err := parsed[Duration](text); err == nil && d <= 0 {
			t.Errorf("duration %q = %v", text, d)
		}
		if n, err := parseSize(text); err == nil && (n < 0 || n > math.MaxInt64/2) {
			t.Errorf("size %q = %d", text, n)
		}
		if s, err := parsed[Share](text); err == nil {
			positive := s.bytes > 0 && s.share == 0 || s.bytes == 0 && s.share > 0 && s.share <= 1
			if !positive || !s.set() || s.of(1<<60) < 0 {
				t.Errorf("share %q = %+v", text, s)
			}
		}
		if floor, err := parsed[Floor](text); err == nil {
			for _, whole := range []int64{0, 1, 1 << 40, 1 << 60} {
				if n := floor.of(whole); n < 0 || n > math.MaxInt64/2 {
					t.Errorf("floor %q of %d = %d", text, whole, n)
				}
			}
		}
	})
}
