package units

import (
	"testing"
	"time"
)

func TestUnits(t *testing.T) {
	now := time.Date(2026, 11, 28, 12, 0, 0, 0, time.FixedZone("", 3600))
	for _, tc := range []struct{ got, want string }{
		{Bytes(0), "0 B"}, {Bytes(999), "999 B"}, {Bytes(1000), "1.0 kB"}, {Bytes(9940), "9.9 kB"}, {Bytes(9960), "10 kB"},
		{Bytes(999_499), "999 kB"}, {Bytes(999_500), "1.0 MB"}, {Bytes(412_316_860_416), "412 GB"}, {Bytes(1<<63 - 1), "9.2 EB"}, {Bytes(-1), "-1 B"},
		{BytesOf(0, 65_000_000), "0 of 65 MB"}, {BytesOf(138e6, 151e6), "138 of 151 MB"}, {BytesOf(5e6, 2e9), "5.0 MB of 2.0 GB"}, {BytesOf(0, 0), "0 of 0 B"},
		{Percent(Ratio(0, 0)), "0 %"}, {Percent(Ratio(9999, 10000)), "99 %"}, {Percent(1), "100 %"}, {Percent(.125), "12 %"},
		{Duration(-time.Hour), "0 s"}, {Duration(59 * time.Second), "59 s"}, {Seconds(2400), "40 min"}, {Duration(47 * time.Hour), "47 h"}, {Duration(48 * time.Hour), "2 d"},
		{Ago(time.Time{}, now), "never"}, {Ago(now.Add(-3*time.Minute), now), "3 min ago"}, {Ago(now.Add(time.Minute), now), "0 s ago"},
		{Clock(now.Add(-time.Hour).UTC(), now), "11:00"}, {Clock(now.Add(-13*time.Hour), now), "2026-11-27 23:00"},
		{Count(1, "registry"), "1 registry"}, {Count(2, "registry"), "2 registries"}, {Count(2, "day"), "2 days"}, {Count(int64(0), "pull"), "0 pulls"},
		{Digest("sha256:a3ed95caeb02ffe68cdd9fd84406680ae93d633cb16422d00e8a7c22955b46d4"), "sha256:a3ed95caeb02"}, {Digest("sha256:9aa0"), "sha256:9aa0"}, {Digest(""), ""},
	} {
		if tc.got != tc.want {
			t.Errorf("%q, want %q", tc.got, tc.want)
		}
	}
}
