package config

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// TestLoadClient reads what the commands need, beside variables of a service that
// they cannot use.
func TestLoadClient(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := LoadClient([]string{"HUBCAP_URL=https://box.example.com:5001/", "HUBCAP_TOKEN_FILE=" + file, "HUBCAP_DATA_DIR=/data", "HUBCAP_ADMIN_SOCKET=/a/b",
		"HUBCAP_LISTEN=wrong", "HUBCAP_UPSTREAM_0_PASSWORD_FILE=/does/not/exist"})
	if err != nil || c.URL.String() != "https://box.example.com:5001" || string(c.Token) != "secret" {
		t.Errorf("%v, %v %q", err, c.URL, string(c.Token))
	}
	if want := []string{"/a/b", "/data/admin.sock", "/run/hubcap/admin.sock", "/var/lib/hubcap/admin.sock"}; !slices.Equal(c.Sockets, want) {
		t.Errorf("%v, want %v", c.Sockets, want)
	}
	if c, err := LoadClient(nil); err != nil || c.URL != nil || c.Token != "" {
		t.Errorf("%v, %v", c, err)
	}
	for _, wrong := range []string{"box:5001", "ftp://box", "https://", "http://me:secret@box", "https://box/api", "https://box?a=b"} {
		if c, err := LoadClient([]string{"HUBCAP_URL=" + wrong}); err == nil {
			t.Errorf("%s: %v", wrong, c.URL)
		}
	}
}
