package config

import (
	"slices"
	"strings"
	"testing"
)

func TestBoxes(t *testing.T) {
	var b Boxes
	if err := b.UnmarshalText([]byte("berlin = https://berlin.lan:5001, http://paris.lan:5001/")); err != nil {
		t.Fatal(err)
	}
	if want := (Boxes{{"berlin", "https://berlin.lan:5001"}, {"paris.lan", "http://paris.lan:5001"}}); !slices.Equal(b, want) {
		t.Errorf("%v, want %v", b, want)
	}
	for _, text := range []string{"", "berlin", "berlin=", "=https://berlin.lan", "berlin=ftp://berlin.lan", "https://user:password@berlin.lan", "javascript:alert(1)", strings.Repeat("a", 101) + "=https://b.lan"} {
		if err := b.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q: no error, %v", text, b)
		}
	}
}
