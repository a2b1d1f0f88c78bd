package main

import (
	"encoding/pem"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"hubcap/e2e/testkit"
	"hubcap/proxy/cli"
	"hubcap/proxy/config"
)

func TestMain(m *testing.M) { os.Exit(testkit.Main{M: m}.Run()) }

const day = "2026-11-28"

// TestManual holds the page against the program: all variables and commands.
func TestManual(t *testing.T) {
	root := cli.Command(cli.Options{})
	page := manual(root, day)
	for _, v := range config.Variables() {
		if !strings.Contains(page, "\n.TP\n.B "+v.Name+"\n") {
			t.Errorf("%s is missing", v.Name)
		}
	}
	for _, c := range root.Commands() {
		if c.IsAvailableCommand() != strings.Contains(page, "\n.TP\n.B hubcap "+c.Name()) {
			t.Errorf("the command %s: available is %v", c.Name(), c.IsAvailableCommand())
		}
	}
}

// TestManualsAreUnderstood has mandoc read all pages.
func TestManualsAreUnderstood(t *testing.T) {
	testkit.NeedPrograms(t, "mandoc")
	dir := t.TempDir()
	if err := manuals(dir, day); err != nil {
		t.Fatal(err)
	}
	pages, _ := filepath.Glob(filepath.Join(dir, "*.1"))
	if len(pages) < 8 {
		t.Errorf("%d pages", len(pages))
	}
	if out, err := exec.Command("mandoc", append([]string{"-Tlint", "-Wwarning"}, pages...)...).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestCompletionsAreUnderstood has bash read its script.
func TestCompletionsAreUnderstood(t *testing.T) {
	testkit.NeedPrograms(t, "bash")
	dir := t.TempDir()
	if err := completions(dir); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("bash", "-n", filepath.Join(dir, "hubcap")).CombinedOutput(); err != nil {
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
