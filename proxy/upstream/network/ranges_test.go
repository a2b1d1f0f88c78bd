package network

import "testing"

func TestRange(t *testing.T) {
	for _, tc := range []struct {
		off, n int64
		want   string
	}{{0, -1, ""}, {7, -1, "bytes=7-"}, {0, 1, "bytes=0-0"}, {7, 3, "bytes=7-9"}} {
		if got := Range(tc.off, tc.n).Get("Range"); got != tc.want {
			t.Errorf("%d from %d: %q, want %q", tc.n, tc.off, got, tc.want)
		}
	}
}

func TestContentRange(t *testing.T) {
	t.Parallel()
	tests := []struct {
		header      string
		first, size int64
		ok          bool
	}{
		{"bytes 0-0/1", 0, 1, true},
		{"bytes 100-199/1000", 100, 1000, true},
		{"bytes 100-199/*", 100, -1, true},
		{"bytes 0-9223372036854775806/9223372036854775807", 0, 1<<63 - 1, true},
		{header: ""},
		{header: "bytes"},
		{header: "bytes "},
		{header: "bytes */1000"},
		{header: "bytes 100/1000"},
		{header: "bytes 100-/1000"},
		{header: "bytes -100/1000"},
		{header: "bytes 100-199"},
		{header: "bytes 100-199/"},
		{header: "bytes 199-100/1000"},
		{header: "bytes 100-199/199"},
		{header: "bytes 100-1000/1000"},
		{header: "bytes 100-199/-1"},
		{header: "bytes a-b/c"},
		{header: "bytes 0-9223372036854775808/*"},
		{header: "bytes 0x1-0x2/3"},
		{header: "Bytes=0-1/2"},
		{header: "items 0-1/2"},
	}
	for _, tt := range tests {
		first, end, size, ok := ContentRange(tt.header)
		if ok && (end <= first || size >= 0 && end > size) {
			t.Errorf("%q: ends at %d", tt.header, end)
		}
		if ok != tt.ok || ok && (first != tt.first || size != tt.size) {
			t.Errorf("%q: got %d, %d, %t, want %d, %d, %t", tt.header, first, size, ok, tt.first, tt.size, tt.ok)
		}
	}
}

func FuzzContentRange(f *testing.F) {
	for _, s := range []string{"bytes 0-0/1", "bytes 100-199/*", "bytes */1000", "bytes 5-4/3", "bytes 0-9223372036854775807/9223372036854775807"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, header string) {
		first, end, size, ok := ContentRange(header)
		if ok && (first < 0 || end <= first || size != -1 && size < end) {
			t.Errorf("%q: %d of %d", header, first, size)
		}
	})
}
