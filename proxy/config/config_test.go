package config

import (
	"crypto/x509"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"hubcap/e2e/testkit"
)

// certificate is a new authority's certificate in PEM.
func certificate(t *testing.T) string {
	t.Helper()
	cert, _, err := testkit.Certificate(func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true })
	if err != nil {
		t.Fatal(err)
	}
	return string(cert)
}

func mustLoad(t *testing.T, environ ...string) Config {
	t.Helper()
	c, err := Load(environ)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// refusal is the message of a Load that must fail, checked to be one line.
func refusal(t *testing.T, environ ...string) string {
	t.Helper()
	_, err := Load(environ)
	if err == nil {
		t.Fatalf("Load(%q) succeeds", environ)
	}
	message := err.Error()
	if message == "" || strings.ContainsAny(message, "\n\r") || strings.Contains(message, "%!") {
		t.Errorf("%q is not one clean line", message)
	}
	return message
}

func TestDefaults(t *testing.T) {
	c := mustLoad(t)
	for _, tc := range []struct {
		name      string
		got, want any
	}{
		{"LISTEN", c.Listen, Address(":5000")},
		{"ADMIN_LISTEN", c.AdminListen, Address("127.0.0.1:5001")},
		{"DATA_DIR", c.DataDir, "./data"},
		{"CACHE_SIZE", c.CacheSizeSet(), false},
		{"MAX_BLOB", c.MaxBlob.String(), "25%"},
		{"MIN_FREE", c.MinFree.String(), "max(5%,2GiB)"},
		{"TAG_TTL", time.Duration(c.TagTTL), time.Minute},
		{"CONNECT_TIMEOUT", time.Duration(c.ConnectTimeout), 5 * time.Second},
		{"HEADER_TIMEOUT", time.Duration(c.HeaderTimeout), 25 * time.Second},
		{"STALL_TIMEOUT", time.Duration(c.StallTimeout), 30 * time.Second},
		{"DRAIN_TIMEOUT", time.Duration(c.DrainTimeout), 30 * time.Second},
		{"DEFAULT_UPSTREAM", c.DefaultUpstream, "docker.io"},
		{"CA_FILE", c.CAFile, CAFile{}},
		{"ALLOW_CLIENTS", len(c.AllowClients), 0},
		{"VERIFY_INTERVAL", time.Duration(c.VerifyInterval), 7 * 24 * time.Hour},
		{"PREFETCH", c.Prefetch, PrefetchOnPull},
		{"LOG_LEVEL", int(c.LogLevel), 0},
		{"LOG_FORMAT", c.LogFormat, LogFormat("text")},
		{"warnings", len(c.Warnings), 0},
	} {
		if tc.got != tc.want {
			t.Errorf("%s = %v, want %v", tc.name, tc.got, tc.want)
		}
	}
}

func TestEmptyIsNotSet(t *testing.T) {
	c := mustLoad(t, "HUBCAP_LISTEN=", "HUBCAP_TAG_TTL=", "HUBCAP_CACHE_SIZE=", "HUBCAP_CA_FILE=", "HUBCAP_UPSTREAM_0_HOST=", "HUBCAP_UPSTREAM_0_PASSWORD_FILE=")
	if c.Listen != ":5000" || time.Duration(c.TagTTL) != time.Minute || c.CacheSizeSet() {
		t.Errorf("empty variables count as set: %+v", c)
	}
}

func TestValuesAreTaken(t *testing.T) {
	c := mustLoad(t, "HUBCAP_LISTEN=:6000", "HUBCAP_ADMIN_LISTEN=:6001", "HUBCAP_DATA_DIR=/srv/hubcap", "HUBCAP_TAG_TTL=1d",
		"HUBCAP_DEFAULT_UPSTREAM=GHCR.io", "HUBCAP_LOG_FORMAT=json", "HUBCAP_ALLOW_CLIENTS=10.0.0.0/8,fd00::/8", "PATH=/bin")
	if c.Listen != ":6000" || c.AdminListen != ":6001" || c.DataDir != "/srv/hubcap" || time.Duration(c.TagTTL) != 24*time.Hour ||
		c.DefaultUpstream != "ghcr.io" || c.LogFormat != "json" || c.AllowClients.String() != "10.0.0.0/8,fd00::/8" {
		t.Errorf("got %+v", c)
	}
}

// Every refusal is one line that names the variable, its value and what is
// allowed.
func TestBadValues(t *testing.T) {
	host := "HUBCAP_UPSTREAM_0_HOST=registry.example.com"
	for _, tc := range []struct {
		name    string
		environ []string // the first one is to blame
		hint    string
	}{
		{"listen", []string{"HUBCAP_LISTEN=5000"}, "want an address to listen on"},
		{"admin listen", []string{"HUBCAP_ADMIN_LISTEN=localhost"}, "want an address to listen on"},
		{"both listeners on one address", []string{"HUBCAP_ADMIN_LISTEN=:7000", "HUBCAP_LISTEN=:7000"}, "is HUBCAP_LISTEN's address too; the two must differ"},
		{"further port", []string{"HUBCAP_LISTEN_0_ADDRESS=5002", "HUBCAP_LISTEN_0_UPSTREAM=ghcr.io"}, "want an address to listen on"},
		{"further port without a registry", []string{"HUBCAP_LISTEN_0_UPSTREAM=", "HUBCAP_LISTEN_0_ADDRESS=:5002"}, "want the registry's name"},
		{"further port of an unknown registry", []string{"HUBCAP_LISTEN_0_UPSTREAM=registry.example.com", "HUBCAP_LISTEN_0_ADDRESS=:5002"}, "want a well-known registry, such as docker.io, or one that HUBCAP_UPSTREAM_<n>_HOST names"},
		{"further port of a pattern", []string{"HUBCAP_LISTEN_0_UPSTREAM=*.pkg.dev", "HUBCAP_LISTEN_0_ADDRESS=:5002"}, "want a well-known registry"},
		{"registry without a further port", []string{"HUBCAP_LISTEN_0_ADDRESS=", "HUBCAP_LISTEN_0_UPSTREAM=ghcr.io"}, "want an address to listen on"},
		{"further port on the first one's address", []string{"HUBCAP_LISTEN_0_ADDRESS=:5000", "HUBCAP_LISTEN_0_UPSTREAM=ghcr.io"}, "is HUBCAP_LISTEN's address too; the two must differ"},
		{"two further ports on one address", []string{"HUBCAP_LISTEN_1_ADDRESS=:5002", "HUBCAP_LISTEN_1_UPSTREAM=ghcr.io", "HUBCAP_LISTEN_0_ADDRESS=:5002", "HUBCAP_LISTEN_0_UPSTREAM=quay.io"}, "is HUBCAP_LISTEN_0_ADDRESS's address too; the two must differ"},
		{"a gap between further ports", []string{"HUBCAP_LISTEN_1_ADDRESS=:5002"}, "there is no HUBCAP_LISTEN_0_…; number them 0, 1, … without gaps"},
		{"cache size", []string{"HUBCAP_CACHE_SIZE=lots"}, "want a size such as 50GiB"},
		{"cache size of nothing", []string{"HUBCAP_CACHE_SIZE=0"}, "want more than nothing"},
		{"cache size too small", []string{"HUBCAP_CACHE_SIZE=63MiB"}, "want at least 64MiB"},
		{"cache size a byte too small", []string{"HUBCAP_CACHE_SIZE=67108863"}, "want at least 64MiB"},
		{"cache share of nothing", []string{"HUBCAP_CACHE_SIZE=0%"}, "want at least 64MiB"},
		{"cache share", []string{"HUBCAP_CACHE_SIZE=160%"}, "want a share from 0% to 100%"},
		{"largest blob", []string{"HUBCAP_MAX_BLOB=big"}, "want a size such as 50GiB"},
		{"floor", []string{"HUBCAP_MIN_FREE=max(5%"}, "want a size, a share, or max(a,b)"},
		{"tag ttl", []string{"HUBCAP_TAG_TTL=60"}, "want a duration above zero"},
		{"connect timeout", []string{"HUBCAP_CONNECT_TIMEOUT=0s"}, "want a duration above zero"},
		{"header timeout", []string{"HUBCAP_HEADER_TIMEOUT=-1s"}, "want a duration above zero"},
		{"stall timeout", []string{"HUBCAP_STALL_TIMEOUT=soon"}, "want a duration above zero"},
		{"drain timeout", []string{"HUBCAP_DRAIN_TIMEOUT=NaNd"}, "want a duration above zero"},
		{"CA file", []string{"HUBCAP_CA_FILE=/does/not/exist"}, "want a file of PEM certificates; it cannot be read: no such file or directory"},
		{"clients", []string{"HUBCAP_ALLOW_CLIENTS=10.0.0.0/8;127.0.0.1"}, "is no range of addresses; want such as"},
		{"log level", []string{"HUBCAP_LOG_LEVEL=loud"}, "want debug, info, warn or error"},
		{"log format", []string{"HUBCAP_LOG_FORMAT=xml"}, "want text or json"},
		{"registry host", []string{"HUBCAP_UPSTREAM_0_HOST=https://registry.example.com"}, "want a host, such as registry.example.com"},
		{"registry host with a path", []string{"HUBCAP_UPSTREAM_0_HOST=registry.example.com/mirror"}, "want a host, such as registry.example.com"},
		{"registry port", []string{"HUBCAP_UPSTREAM_0_HOST=registry.example.com:99999"}, "want a port between 1 and 65535"},
		{"registry port zero", []string{"HUBCAP_UPSTREAM_0_HOST=registry.example.com:0"}, "want a port between 1 and 65535"},
		{"registry pattern", []string{"HUBCAP_UPSTREAM_0_HOST=registry.*"}, "want a host, such as registry.example.com"},
		{"pattern of everything", []string{"HUBCAP_UPSTREAM_0_HOST=*."}, "want a host, such as registry.example.com"},
		{"registry URL", []string{"HUBCAP_UPSTREAM_0_URL=registry.example.com", host}, "want an address such as https://registry.example.com"},
		{"URL of a pattern", []string{"HUBCAP_UPSTREAM_0_URL=https://one.example.com", "HUBCAP_UPSTREAM_0_HOST=*.example.com"}, "a pattern of hosts has no one address"},
		{"token hosts", []string{"HUBCAP_UPSTREAM_0_TOKEN_HOSTS=https://auth.example.com", host}, "is no host or host:port"},
		{"empty token hosts", []string{"HUBCAP_UPSTREAM_0_TOKEN_HOSTS=,", host}, "is no host or host:port"},
		{"private ranges", []string{"HUBCAP_UPSTREAM_0_PRIVATE_CIDRS=inside", host}, "is no range of addresses"},
		{"registry CA file", []string{"HUBCAP_UPSTREAM_0_CA_FILE=/does/not/exist", host}, "want a file of PEM certificates"},
		{"registry tag ttl", []string{"HUBCAP_UPSTREAM_0_TAG_TTL=0d", host}, "want a duration above zero"},
		{"numbering begins at 1", []string{"HUBCAP_UPSTREAM_1_HOST=registry.example.com"}, "there is no HUBCAP_UPSTREAM_0_…; number them 0, 1, … without gaps"},
		{"a gap", []string{"HUBCAP_UPSTREAM_2_HOST=b.example.com", host}, "there is no HUBCAP_UPSTREAM_1_…; number them 0, 1, … without gaps"},
		{"one registry twice", []string{"HUBCAP_UPSTREAM_1_HOST=REGISTRY.example.com", host}, "HUBCAP_UPSTREAM_0_HOST names it too"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			message := refusal(t, tc.environ...)
			if !strings.HasPrefix(message, tc.environ[0]+": ") || !strings.Contains(message, tc.hint) {
				t.Errorf("got  %s\nwant %s: …%s…", message, tc.environ[0], tc.hint)
			}
		})
	}
}

func TestFurtherPorts(t *testing.T) {
	c := mustLoad(t, "HUBCAP_LISTEN_0_ADDRESS=:5002", "HUBCAP_LISTEN_0_UPSTREAM=Registry-1.Docker.IO", "HUBCAP_DEFAULT_UPSTREAM=quay.io",
		"HUBCAP_LISTEN_1_ADDRESS=127.0.0.1:0", "HUBCAP_LISTEN_1_UPSTREAM=europe-docker.pkg.dev",
		"HUBCAP_LISTEN_2_ADDRESS=127.0.0.1:0", "HUBCAP_LISTEN_2_UPSTREAM=registry.example.com:8443", "HUBCAP_UPSTREAM_0_HOST=registry.example.com:8443")
	want := []Mirror{{":5002", "docker.io"}, {"127.0.0.1:0", "europe-docker.pkg.dev"}, {"127.0.0.1:0", "registry.example.com:8443"}}
	if !slices.Equal(c.Mirrors, want) || len(c.Warnings) > 0 {
		t.Errorf("got %+v, want %+v; warnings %q", c.Mirrors, want, c.Warnings)
	}
}

func TestFurtherPortThatShowsNothing(t *testing.T) {
	c := mustLoad(t, "HUBCAP_LISTEN_0_ADDRESS=:5002", "HUBCAP_LISTEN_0_UPSTREAM=registry.example.com",
		"HUBCAP_UPSTREAM_0_HOST=registry.example.com", "HUBCAP_UPSTREAM_0_VISIBILITY=passthrough",
		"HUBCAP_AUTH_LISTEN=:5443", "HUBCAP_TLS_CERT_FILE=cert", "HUBCAP_TLS_KEY_FILE=key")
	if len(c.Warnings) != 1 || !strings.HasPrefix(c.Warnings[0], "HUBCAP_LISTEN_0_UPSTREAM=registry.example.com: ") {
		t.Errorf("warnings %q", c.Warnings)
	}
}

func TestCacheSizeOf64MiBIsEnough(t *testing.T) {
	for _, size := range []string{"64MiB", "67108864", "10%"} {
		mustLoad(t, "HUBCAP_CACHE_SIZE="+size)
	}
}

// The system chooses two different ports.
func TestPortZeroTwice(t *testing.T) {
	mustLoad(t, "HUBCAP_LISTEN=127.0.0.1:0", "HUBCAP_ADMIN_LISTEN=127.0.0.1:0")
}

func TestRegistryWithoutHost(t *testing.T) {
	message := refusal(t, "HUBCAP_UPSTREAM_0_URL=https://registry.example.com")
	if want := "HUBCAP_UPSTREAM_0_HOST=: want the registry's name, such as registry.example.com"; message != want {
		t.Errorf("got %q, want %q", message, want)
	}
}

func TestHalfOfCredentials(t *testing.T) {
	for _, half := range []string{"HUBCAP_UPSTREAM_0_USERNAME=", "HUBCAP_UPSTREAM_0_PASSWORD="} {
		message := refusal(t, "HUBCAP_UPSTREAM_0_HOST=docker.io", half+canary)
		if want := "HUBCAP_UPSTREAM_0_USERNAME and HUBCAP_UPSTREAM_0_PASSWORD: set both or none"; message != want {
			t.Errorf("got %q, want %q", message, want)
		}
	}
}

// A value with a line break is still told in one line.
func TestLineBreaksInValues(t *testing.T) {
	message := refusal(t, "HUBCAP_LOG_LEVEL=info\nhubcap: all is well")
	if !strings.Contains(message, `info\nhubcap`) {
		t.Errorf("%q does not show the line break", message)
	}
	for _, environ := range [][]string{
		{"HUBCAP_UPSTREAM_0_HOST=a\nb"},
		{"HUBCAP_UPSTREAM_1_HOST=a\nb"},
		{"HUBCAP_UPSTREAM_0_HOST=a.example.com", "HUBCAP_UPSTREAM_0_TOKEN_HOSTS=a\nb"},
		{"HUBCAP_UPSTREAM_0_PASSWORD_FILE=/no/such\nfile"},
		{"HUBCAP_UPSTREAM_0_PASSWORD_FILE=a\nb", "HUBCAP_UPSTREAM_0_PASSWORD=x"},
		{"HUBCAP_ALLOW_CLIENTS=127.0.0.1\n10.0.0.1"},
		{"HUBCAP_CA_FILE=/no/such\nfile"},
	} {
		refusal(t, environ...)
	}
}

func TestSecretFiles(t *testing.T) {
	dir := t.TempDir()
	for _, tc := range []struct{ name, content, want string }{
		{"no newline", "s3cret", "s3cret"},
		{"a newline", "s3cret\n", "s3cret"},
		{"a Windows newline", "s3cret\r\n", "s3cret"},
		{"spaces are kept", " s3 cret \n", " s3 cret "},
		{"lines inside are kept", "s3\ncret\n", "s3\ncret"},
		{"commas, equals and dollars are kept", "a,b=c$d${e}", "a,b=c$d${e}"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := mustLoad(t, "HUBCAP_UPSTREAM_0_HOST=docker.io",
				"HUBCAP_UPSTREAM_0_USERNAME_FILE="+writeFile(t, dir, "username", "alice\n"),
				"HUBCAP_UPSTREAM_0_PASSWORD_FILE="+writeFile(t, dir, "password", tc.content))
			e := entry(t, c, "docker.io")
			if e.Username != "alice" || string(e.Password) != tc.want {
				t.Errorf("credentials %q, %q; want alice, %q", e.Username, e.Password, tc.want)
			}
			if len(c.Warnings) > 0 {
				t.Errorf("warnings: %q", c.Warnings)
			}
		})
	}
}

func TestSecretFileRefusals(t *testing.T) {
	dir := t.TempDir()
	file := writeFile(t, dir, "password", canary)
	for _, tc := range []struct{ name, path, plain, want string }{
		{"both set", file, canary, ": HUBCAP_UPSTREAM_0_PASSWORD is set too; set one of them"},
		{"missing", filepath.Join(dir, "none"), "", ": cannot be read: no such file or directory"},
		{"a directory", dir, "", ": cannot be read: is a directory"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			message := refusal(t, "HUBCAP_UPSTREAM_0_HOST=docker.io", "HUBCAP_UPSTREAM_0_USERNAME=alice",
				"HUBCAP_UPSTREAM_0_PASSWORD="+tc.plain, "HUBCAP_UPSTREAM_0_PASSWORD_FILE="+tc.path)
			if want := "HUBCAP_UPSTREAM_0_PASSWORD_FILE=" + tc.path + tc.want; message != want {
				t.Errorf("got  %s\nwant %s", message, want)
			}
			if strings.Contains(message, canary) {
				t.Errorf("the secret shows: %s", message)
			}
		})
	}
	t.Run("not permitted", func(t *testing.T) {
		if os.Getuid() == 0 {
			t.Skip("root may read every file")
		}
		if err := os.Chmod(file, 0); err != nil {
			t.Fatal(err)
		}
		if message := refusal(t, "HUBCAP_UPSTREAM_0_PASSWORD_FILE="+file); !strings.HasSuffix(message, ": cannot be read: permission denied") {
			t.Error(message)
		}
	})
	t.Run("an empty file is no password", func(t *testing.T) {
		message := refusal(t, "HUBCAP_UPSTREAM_0_HOST=docker.io", "HUBCAP_UPSTREAM_0_USERNAME=alice",
			"HUBCAP_UPSTREAM_0_PASSWORD_FILE="+writeFile(t, dir, "empty", "\n"))
		if !strings.Contains(message, "set both or none") {
			t.Error(message)
		}
	})
}

// TestErrorIsLoggedAsWanted keeps what says how an error is to be logged.
func TestErrorIsLoggedAsWanted(t *testing.T) {
	for _, bad := range []string{"HUBCAP_TAG_TTL=60", "HUBCAP_UPSTREAM_0_PASSWORD_FILE=/none", "HUBCAP_DEFAULT_UPSTREAM=none.example"} {
		c, err := Load([]string{"HUBCAP_LOG_FORMAT=json", "HUBCAP_LOG_LEVEL=error", bad})
		if err == nil || c.LogFormat != "json" || c.LogLevel != LogLevel(slog.LevelError) {
			t.Errorf("%s: %v, format %q, level %d", bad, err, c.LogFormat, c.LogLevel)
		}
	}
}
