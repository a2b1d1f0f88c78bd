package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

// canary is a credential that must turn up nowhere.
const canary = "canary-4c1d9f"

// shown are the ways in which a value gets into a log.
func shown(t *testing.T, v any) map[string]string {
	t.Helper()
	all := make(map[string]string)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d", "%x"} {
		all[verb] = fmt.Sprintf(verb, v)
	}
	encoded, err := json.Marshal(v)
	all["json"] = fmt.Sprint(string(encoded), err)
	for name, handler := range map[string]func(*bytes.Buffer) slog.Handler{
		"slog text": func(b *bytes.Buffer) slog.Handler { return slog.NewTextHandler(b, nil) },
		"slog json": func(b *bytes.Buffer) slog.Handler { return slog.NewJSONHandler(b, nil) },
	} {
		var out bytes.Buffer
		slog.New(handler(&out)).Info("value", "value", v, slog.Group("group", "value", v))
		all[name] = out.String()
	}
	return all
}

func TestConfigShowsNoCredential(t *testing.T) {
	dir := t.TempDir()
	c := mustLoad(t, "HUBCAP_UPSTREAM_0_HOST=docker.io", "HUBCAP_UPSTREAM_0_USERNAME="+canary, "HUBCAP_UPSTREAM_0_PASSWORD="+canary,
		"HUBCAP_UPSTREAM_1_HOST=registry.example.com", "HUBCAP_UPSTREAM_1_URL=http://registry.example.com", "HUBCAP_UPSTREAM_1_USERNAME=user",
		"HUBCAP_UPSTREAM_1_PASSWORD_FILE="+writeFile(t, dir, "password", canary), "HUBCAP_UPSTREAM_1_PASWORD="+canary)
	if e := entry(t, c, "registry.example.com"); e.Password != canary {
		t.Fatalf("the test's own credential is missing: %q", e.Password)
	}
	hex := fmt.Sprintf("%x", canary)
	for name, value := range map[string]any{
		"value": c, "pointer": &c, "slice": []Config{c}, "map": map[string]*Config{"c": &c}, "field": struct{ C Config }{c},
	} {
		for how, text := range shown(t, value) {
			if strings.Contains(text, canary) || strings.Contains(text, hex) {
				t.Errorf("the credential of a %s shows by %s: %s", name, how, text)
			}
		}
	}
	if text := fmt.Sprintf("%+v", c); !strings.Contains(text, "registry.example.com") || !strings.Contains(text, masked) {
		t.Errorf("want the registries with masked credentials, got %s", text)
	}
	if e := entry(t, c, "docker.io"); e.Username != canary || e.Password != canary {
		t.Error("showing the configuration has changed it")
	}
}

func TestSecretShowsNothing(t *testing.T) {
	for how, text := range shown(t, struct{ Secret Secret }{canary}) {
		if strings.Contains(text, canary) || strings.Contains(text, fmt.Sprintf("%x", canary)) {
			t.Errorf("a secret shows by %s: %s", how, text)
		}
	}
	if got := fmt.Sprint(Secret("")); got != "" {
		t.Errorf("no secret is shown as %q", got)
	}
}

// A credential in an address is refused, and is not repeated while doing so.
func TestCredentialInURLIsNotShown(t *testing.T) {
	for _, at := range []string{
		"https://alice:" + canary + "@registry.example.com",
		"https://" + canary + "@registry.example.com",
		"https://alice:" + canary + "@registry.example.com:port",
		"alice:" + canary + "@registry.example.com",
		"https://alice:%zz" + canary + "@registry.example.com",
		"https://alice:a@" + canary + "@registry.example.com",
		"https://alice:a/" + canary + "@registry.example.com",
	} {
		message := refusal(t, "HUBCAP_UPSTREAM_0_HOST=registry.example.com", "HUBCAP_UPSTREAM_0_URL="+at)
		if strings.Contains(message, canary) || !strings.HasPrefix(message, "HUBCAP_UPSTREAM_0_URL=") || !strings.Contains(message, "@registry.example.com") {
			t.Errorf("want the address without its user: %s", message)
		}
		for name, state := range printed(t, "HUBCAP_UPSTREAM_0_HOST=registry.example.com", "HUBCAP_UPSTREAM_0_URL="+at) {
			if strings.Contains(state, canary) {
				t.Errorf("printed %s: %s", name, state)
			}
		}
	}
	message := refusal(t, "HUBCAP_UPSTREAM_0_HOST=https://alice:"+canary+"@registry.example.com")
	if strings.Contains(message, canary) {
		t.Errorf("the host shows a credential: %s", message)
	}
}

func TestPrintShowsNoSecret(t *testing.T) {
	for _, environ := range [][]string{
		{"HUBCAP_UPSTREAM_0_USERNAME=" + canary, "HUBCAP_UPSTREAM_0_PASSWORD=" + canary},
		{"HUBCAP_UPSTREAM_7_PASSWORD=" + canary},
		{"HUBCAP_PASSWORD=" + canary},
	} {
		for name, state := range printed(t, environ...) {
			if strings.Contains(state, canary) {
				t.Errorf("%s: %s", name, state)
			}
		}
	}
	if message := refusal(t, "HUBCAP_UPSTREAM_7_PASSWORD="+canary); strings.Contains(message, canary) || !strings.HasPrefix(message, "HUBCAP_UPSTREAM_7_PASSWORD=***: ") {
		t.Error(message)
	}
}

// TestNotifyURLIsASecret shows that the address is read from its file, and that
// neither its errors nor what is printed hold it.
func TestNotifyURLIsASecret(t *testing.T) {
	address := "https://hooks.example.com/" + canary
	file := writeFile(t, t.TempDir(), "notify", address+"\n")
	for _, environ := range [][]string{{"HUBCAP_NOTIFY_URL=" + address}, {"HUBCAP_NOTIFY_URL_FILE=" + file}} {
		c := mustLoad(t, environ...)
		if string(c.NotifyURL) != address || len(c.Warnings) != 0 {
			t.Errorf("%s: %d bytes read, %q", environ[0], len(c.NotifyURL), c.Warnings)
		}
		var printed bytes.Buffer
		if err := Print(&printed, environ); err != nil || strings.Contains(printed.String(), canary) || !strings.Contains(printed.String(), "HUBCAP_NOTIFY_URL") {
			t.Errorf("%v\n%s", err, printed.String())
		}
		for how, text := range shown(t, c) {
			if strings.Contains(text, canary) {
				t.Errorf("it shows by %s", how)
			}
		}
	}
	for _, bad := range []string{"ftp://hooks.example.com/" + canary, canary, "https:///" + canary, "https://%zz" + canary} {
		if message := refusal(t, "HUBCAP_NOTIFY_URL="+bad); strings.Contains(message, canary) || !strings.Contains(message, "HUBCAP_NOTIFY_URL=") {
			t.Errorf("%s", message)
		}
	}
}
