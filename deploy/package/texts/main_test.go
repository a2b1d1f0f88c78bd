package main

import (
	"encoding/pem"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"hubcap/e2e/testkit"
	"hubcap/proxy/config"
)

func TestMain(m *testing.M) { os.Exit(testkit.Main{M: m}.Run()) }

const program = "../../../main.go"

// TestManual holds the page against the program: all variables, and the commands
// that hubcap itself lists.
func TestManual(t *testing.T) {
	page, err := manual(program, "2026-11-28")
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range config.Variables() {
		if !strings.Contains(page, "\n.TP\n.B "+v.Name+"\n") {
			t.Errorf("%s is missing", v.Name)
		}
	}
	main, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range regexp.MustCompile(`(?m)^\s+case "([a-z]+)"`).FindAllStringSubmatch(string(main), -1) {
		if !strings.Contains(page, "\n.TP\n.B hubcap "+c[1]) {
			t.Errorf("the command %s is missing", c[1])
		}
	}
	if !strings.Contains(page, `.B hubcap config
prints every variable, its default and its value, and fails where the start would
`) {
		t.Error("a command of two lines is not whole")
	}
}

// TestCommands: a long name leaves one space before what the command does.
func TestCommands(t *testing.T) {
	file := filepath.Join(t.TempDir(), "main.go")
	text := "// Command hubcap is\n// a cache.\n//\n//\thubcap          serves\n//\thubcap do THING does\n//\t                it  well\npackage main\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	is, all, err := commands(file)
	if err != nil || is != "hubcap is a cache." || !slices.Equal(all, []command{{"hubcap", "serves"}, {"hubcap do THING", "does it  well"}}) {
		t.Errorf("%q %q %v", is, all, err)
	}
}

// TestManualIsUnderstood has mandoc read the page.
func TestManualIsUnderstood(t *testing.T) {
	testkit.NeedPrograms(t, "mandoc")
	page, err := manual(program, "2026-11-28")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "hubcap.1")
	if err := os.WriteFile(file, []byte(page), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mandoc", "-Tlint", "-Wwarning", file).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

var setting = regexp.MustCompile(`(?m)^#(HUBCAP_[A-Z0-9_]+)=(.+)$`)

// TestSettings takes the comment signs away: what is left is ten variables that
// hubcap accepts.
func TestSettings(t *testing.T) {
	text, err := settings()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(text) {
		if line != "\n" && !strings.HasPrefix(line, "#") || len(line) > 80 {
			t.Errorf("%q is set, or longer than 80 characters", line)
		}
	}
	dir := t.TempDir()
	authority := httptest.NewTLSServer(nil)
	defer authority.Close()
	secret := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: authority.Certificate().Raw})
	var environ []string
	for _, s := range setting.FindAllStringSubmatch(text, -1) {
		value := s[2]
		if strings.HasPrefix(value, "/etc/hubcap/") {
			value = filepath.Join(dir, filepath.Base(value))
			if err := os.WriteFile(value, secret, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		environ = append(environ, s[1]+"="+value)
	}
	if len(environ) != 10 {
		t.Errorf("%d variables: %q", len(environ), environ)
	}
	c, err := config.Load(environ)
	if err != nil || len(c.Warnings) != 1 || !strings.Contains(c.Warnings[0], "HUBCAP_ADMIN_TLS_CERT_FILE") { // of the admin port without TLS
		t.Errorf("%v, warnings %q", err, c.Warnings)
	}
}
