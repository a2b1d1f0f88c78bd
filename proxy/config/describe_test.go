package config

import (
	"bytes"
	"slices"
	"strings"
	"testing"
)

func TestUnknownNames(t *testing.T) {
	for _, tc := range []struct{ name, variable, nearest string }{
		{"a typo", "HUBCAP_LISTN", "HUBCAP_LISTEN"},
		{"a plural", "HUBCAP_CACHE_SIZES", "HUBCAP_CACHE_SIZE"},
		{"a letter less", "HUBCAP_TAG_TL", "HUBCAP_TAG_TTL"},
		{"a word less", "HUBCAP_ALLOW_CLIENT", "HUBCAP_ALLOW_CLIENTS"},
		{"lower case at the end", "HUBCAP_LOG_LeVEL", "HUBCAP_LOG_LEVEL"},
		{"a file for what is no secret", "HUBCAP_DATA_DIR_FILE", "HUBCAP_DATA_DIR"},
		{"a number as no other writes it", "HUBCAP_UPSTREAM_00_HOST", "HUBCAP_UPSTREAM_<n>_HOST"},
		{"a number that does not fit", "HUBCAP_UPSTREAM_99999999999999999999_HOST", "HUBCAP_UPSTREAM_<n>_HOST"},
		{"a number that is none", "HUBCAP_UPSTREAM_X_HOST", "HUBCAP_UPSTREAM_<n>_HOST"},
		{"a name that tests once had", "HUBCAP_TEST_LISTEN", "HUBCAP_AUTH_LISTEN"},
		{"another one", "HUBCAP_E2E_LISTEN", "HUBCAP_LISTEN"},
		{"no number", "HUBCAP_UPSTREAM_HOST", "HUBCAP_UPSTREAM_<n>_HOST"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := mustLoad(t, tc.variable+"="+canary)
			want := tc.variable + " is no variable of hubcap and does nothing; did you mean " + tc.nearest + "?"
			if !slices.Equal(c.Warnings, []string{want}) {
				t.Errorf("warnings %q, want %q", c.Warnings, want)
			}
		})
	}
	t.Run("a registry's field", func(t *testing.T) {
		c := mustLoad(t, "HUBCAP_UPSTREAM_0_HOST=docker.io", "HUBCAP_UPSTREAM_0_PASWORD="+canary)
		want := "HUBCAP_UPSTREAM_0_PASWORD is no variable of hubcap and does nothing; did you mean HUBCAP_UPSTREAM_<n>_PASSWORD?"
		if !slices.Equal(c.Warnings, []string{want}) {
			t.Errorf("warnings %q, want %q", c.Warnings, want)
		}
	})
	t.Run("several, in order", func(t *testing.T) {
		c := mustLoad(t, "HUBCAP_ZZZ=1", "HUBCAP_AAA=1", "HUBCAP_MMM=1")
		if len(c.Warnings) != 3 || !slices.IsSorted(c.Warnings) {
			t.Errorf("warnings %q", c.Warnings)
		}
	})
}

func TestNamesOfOthersAreSilent(t *testing.T) {
	c := mustLoad(t,
		"HUBCAP_SERVICE_HOST=10.96.0.7", "HUBCAP_SERVICE_PORT=5000", "HUBCAP_SERVICE_PORT_MIRROR=5000",
		"HUBCAP_PORT=tcp://10.96.0.7:5000", "HUBCAP_PORT_5000_TCP=tcp://10.96.0.7:5000", "HUBCAP_PORT_5000_TCP_PROTO=tcp",
		"HUBCAP_PORT_5000_TCP_PORT=5000", "HUBCAP_PORT_5000_TCP_ADDR=10.96.0.7",
		"HUBCAPX=1", "hubcap_listen=:1", "OTHER_LISTEN=:1", "KUBERNETES_PORT=tcp://10.96.0.1:443")
	if len(c.Warnings) > 0 {
		t.Errorf("warnings %q, want none", c.Warnings)
	}
	if c.Listen != ":5000" {
		t.Errorf("listens on %s", c.Listen)
	}
}

func TestEveryVariableIsDocumented(t *testing.T) {
	names := make(map[string]bool)
	for _, v := range Variables() {
		if v.Means == "" || strings.HasSuffix(v.Name, "_") {
			t.Errorf("%+v: want a name and a meaning", v)
		}
		if names[v.Name] {
			t.Errorf("%s twice", v.Name)
		}
		names[v.Name] = true
		if foreign(v.Name) {
			t.Errorf("%s is a name that others set", v.Name)
		}
	}
	for _, name := range []string{"HUBCAP_LISTEN", "HUBCAP_UPSTREAM_<n>_HOST", "HUBCAP_UPSTREAM_<n>_PASSWORD", "HUBCAP_LOG_FORMAT"} {
		if !names[name] {
			t.Errorf("%s is missing", name)
		}
	}
}

// printed is what hubcap config prints, by variable.
func printed(t *testing.T, environ ...string) map[string]string {
	t.Helper()
	var out bytes.Buffer
	if err := Print(&out, environ); err != nil {
		t.Fatal(err)
	}
	lines := make(map[string]string)
	for line := range strings.Lines(out.String()) {
		name, state, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if !ok || !strings.HasPrefix(name, Prefix) {
			t.Errorf("odd line %q", line)
		}
		lines[name] = strings.TrimSpace(state)
	}
	return lines
}

func TestPrint(t *testing.T) {
	for _, tc := range []struct {
		name    string
		environ []string
		want    map[string]string
	}{
		{"nothing set", []string{"PATH=/bin"}, map[string]string{
			"HUBCAP_LISTEN":                "default: :5000",
			"HUBCAP_CA_FILE":               "not set",
			"HUBCAP_CACHE_SIZE":            "default: 80% of the file system, but at most half of the space that is free at the first start",
			"HUBCAP_UPSTREAM_<n>_HOST":     "default: the well-known public registries",
			"HUBCAP_UPSTREAM_<n>_PASSWORD": "not set",
		}},
		{"values beside their defaults", []string{"HUBCAP_LISTEN=:6000", "HUBCAP_CACHE_SIZE=50GiB", "HUBCAP_LOG_LEVEL=", "HUBCAP_DATA_DIR=a=b"}, map[string]string{
			"HUBCAP_LISTEN":     ":6000  (default: :5000)",
			"HUBCAP_CACHE_SIZE": "50GiB  (default: 80% of the file system, but at most half of the space that is free at the first start)",
			"HUBCAP_LOG_LEVEL":  "default: info",
			"HUBCAP_DATA_DIR":   "a=b  (default: ./data)",
		}},
		{"a wrong value is shown as it is", []string{"HUBCAP_TAG_TTL=soon"}, map[string]string{"HUBCAP_TAG_TTL": "soon  (default: 1m)"}},
		{"a line break in a value", []string{"HUBCAP_DATA_DIR=a\nHUBCAP_LISTEN :1"}, map[string]string{
			"HUBCAP_DATA_DIR": `"a\nHUBCAP_LISTEN :1"  (default: ./data)`,
			"HUBCAP_LISTEN":   "default: :5000",
		}},
		{"registries", []string{"HUBCAP_UPSTREAM_0_HOST=docker.io", "HUBCAP_UPSTREAM_0_USERNAME=" + canary, "HUBCAP_UPSTREAM_0_PASSWORD=" + canary, "HUBCAP_UPSTREAM_1_HOST=b.example.com"}, map[string]string{
			"HUBCAP_UPSTREAM_0_HOST":     "docker.io  (default: the well-known public registries)",
			"HUBCAP_UPSTREAM_0_USERNAME": "***  (not set)",
			"HUBCAP_UPSTREAM_0_PASSWORD": "***  (not set)",
			"HUBCAP_UPSTREAM_1_HOST":     "b.example.com  (default: the well-known public registries)",
			"HUBCAP_UPSTREAM_1_PASSWORD": "not set",
		}},
		{"a secret from a file", []string{"HUBCAP_UPSTREAM_0_HOST=docker.io", "HUBCAP_UPSTREAM_0_PASSWORD_FILE=/run/secrets/hub"}, map[string]string{
			"HUBCAP_UPSTREAM_0_PASSWORD": "from /run/secrets/hub",
			"HUBCAP_UPSTREAM_0_USERNAME": "not set",
		}},
		{"a gap in the numbers", []string{"HUBCAP_UPSTREAM_5_HOST=docker.io"}, map[string]string{"HUBCAP_UPSTREAM_<n>_HOST": "default: the well-known public registries"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := printed(t, tc.environ...)
			for name, want := range tc.want {
				if got[name] != want {
					t.Errorf("%s: %q, want %q", name, got[name], want)
				}
			}
		})
	}
}

func TestPrintListsEveryVariable(t *testing.T) {
	got := printed(t)
	for _, v := range Variables() {
		if _, ok := got[v.Name]; !ok {
			t.Errorf("%s is not printed", v.Name)
		}
	}
}
