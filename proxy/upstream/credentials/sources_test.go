package credentials

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"oras.land/oras-go/v2/registry/remote/auth"

	"hubcap/e2e/testkit"
)

const canary = "canary-5a07c3"

func write(t *testing.T, path, content string, mode os.FileMode) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

// helper puts a credential helper on PATH.
func helper(t *testing.T, name, script string) {
	t.Helper()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "docker-credential-"+name), "#!/bin/sh\n"+script, 0o700)
	t.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH"))
}

// tellsNothing checks that an error holds no secret.
func tellsNothing(t *testing.T, err error) {
	t.Helper()
	if err != nil && strings.Contains(err.Error(), canary) {
		t.Errorf("the error tells: %v", err)
	}
}

func basic(user, password string) string {
	return base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
}

func TestDockerConfig(t *testing.T) {
	const host = "registry.example:5000"
	for name, tc := range map[string]struct {
		config, script string // of docker-credential-test
		host           string
		want           auth.Credential
		err            string
	}{
		"a password": {
			config: fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, host, basic("u", canary)), want: auth.Credential{Username: "u", Password: canary},
		},
		"Docker Hub": {
			config: fmt.Sprintf(`{"auths":{"https://index.docker.io/v1/":{"auth":%q}}}`, basic("u", canary)), host: "registry-1.docker.io",
			want: auth.Credential{Username: "u", Password: canary},
		},
		"an identity token": {
			config: fmt.Sprintf(`{"auths":{%q:{"identitytoken":%q}}}`, host, canary), want: auth.Credential{RefreshToken: canary},
		},
		"a helper of the host": {
			config: fmt.Sprintf(`{"credHelpers":{%q:"test"}}`, host), script: `read host; echo "{\"Username\":\"$1 $host\",\"Secret\":\"` + canary + `\"}"`,
			want: auth.Credential{Username: "get " + host, Password: canary},
		},
		"a helper of all": {
			config: `{"credsStore":"test"}`, script: `echo '{"Username":"<token>","Secret":"` + canary + `"}'`, want: auth.Credential{RefreshToken: canary},
		},
		"another host's":           {config: fmt.Sprintf(`{"auths":{"other.example":{"auth":%q}}}`, basic("u", canary)), err: "has no entry for " + host},
		"no file":                  {err: "has no entry for " + host},
		"no JSON":                  {config: canary, err: "found or parsed"},
		"an entry without colon":   {config: fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, host, base64.StdEncoding.EncodeToString([]byte(canary))), err: "malformed"},
		"a helper that fails":      {config: `{"credsStore":"test"}`, script: "echo " + canary + "; exit 1", err: "helper fails"},
		"a helper without JSON":    {config: `{"credsStore":"test"}`, script: "echo " + canary, err: "helper fails"},
		"a helper that is missing": {config: `{"credsStore":"missing"}`, err: "docker-credential-missing"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			t.Setenv("DOCKER_CONFIG", dir)
			if tc.config != "" {
				write(t, filepath.Join(dir, "config.json"), tc.config, 0o600)
			}
			helper(t, "test", tc.script)
			if tc.host == "" {
				tc.host = host
			}
			got, ends, err := dockerConfig{tc.host}.get(t.Context())
			if got != tc.want || !ends.IsZero() || (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
				t.Errorf("got %+v, %v, %v; want %+v, %q", got, ends, err, tc.want, tc.err)
			}
			tellsNothing(t, err)
		})
	}
}

// TestHelperHangs: a helper that hangs is killed after the time-out.
func TestHelperHangs(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("DOCKER_CONFIG", dir)
	write(t, filepath.Join(dir, "config.json"), `{"credsStore":"test"}`, 0o600)
	started := filepath.Join(dir, "started")
	helper(t, "test", "echo > "+started+"; exec sleep 600")
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error)
	go func() { _, _, err := dockerConfig{"registry.example"}.get(ctx); failed <- err }()
	for {
		if _, err := os.Stat(started); err == nil {
			break
		}
		runtime.Gosched()
	}
	cancel()
	if err := <-failed; !errors.Is(err, errSlow) {
		t.Errorf("got %v", err)
	}
}

// TestGivenFiles: a secret that changes in its file is read again.
func TestGivenFiles(t *testing.T) {
	file := write(t, filepath.Join(t.TempDir(), "token"), "one\n", 0o600)
	g := given{Login{Token: "one", TokenFile: file}}
	for _, want := range []string{"one", "two"} {
		write(t, file, want+"\n", 0o600)
		got, ends, err := g.get(t.Context())
		if got != (auth.Credential{RefreshToken: want}) || !ends.IsZero() || err != nil {
			t.Errorf("got %+v, %v, %v; want %s", got, ends, err, want)
		}
	}
	os.Remove(file)
	if _, _, err := g.get(t.Context()); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("got %v", err)
	}
	got, ends, err := given{Login{Username: "u", Password: canary}}.get(t.Context())
	if got != (auth.Credential{Username: "u", Password: canary}) || time.Until(ends) < 365*24*time.Hour || err != nil {
		t.Errorf("got %+v, %v, %v", got, ends, err)
	}
}

func direct(*http.Request) (*url.URL, error) { return nil, nil } //nolint:nilnil // as net/http wants it

func TestECR(t *testing.T) {
	ends := time.Now().Add(12 * time.Hour).Truncate(time.Second)
	token := base64.StdEncoding.EncodeToString([]byte("AWS:" + canary))
	private := fmt.Sprintf(`{"authorizationData":[{"authorizationToken":%q,"expiresAt":%d,"proxyEndpoint":"https://x"}]}`, token, ends.Unix())
	public := fmt.Sprintf(`{"authorizationData":{"authorizationToken":%q,"expiresAt":%d}}`, token, ends.Unix())
	for name, tc := range map[string]struct {
		host, answer, target, body string
		status                     int
		err                        string
	}{
		"private": {"123456789012.dkr.ecr.eu-west-1.amazonaws.com", private, "AmazonEC2ContainerRegistry_V20150921", "123456789012", 200, ""},
		"public":  {ecrPublic, public, "SpencerFrontendService", "{}", 200, ""},
		"refused": {"123456789012.dkr.ecr.eu-west-1.amazonaws.com", `{"__type":"AccessDeniedException","message":"no right"}`, "", "", 400, "AccessDeniedException: no right"},
		"no JSON": {"123456789012.dkr.ecr.eu-west-1.amazonaws.com", canary, "", "", 200, "amazon"},
		"no data": {"123456789012.dkr.ecr.eu-west-1.amazonaws.com", "{}", "", "", 200, "cannot be parsed"},
		"foreign": {"registry.example", "", "", "", 200, "no registry of Amazon's"},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				if !strings.HasPrefix(r.Header.Get("X-Amz-Target"), tc.target) || !strings.Contains(string(body), tc.body) {
					t.Errorf("asked %q for %s", r.Header.Get("X-Amz-Target"), body)
				}
				w.Header().Set("Content-Type", "application/x-amz-json-1.1")
				w.WriteHeader(tc.status)
				io.WriteString(w, tc.answer)
			}))
			defer server.Close()
			awsEnvironment(t, server.URL)
			got, until, err := ecrSource{Options{Host: tc.host, Proxy: direct, RootCAs: systems}}.get(t.Context())
			tellsNothing(t, err)
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Errorf("got %v, want %q", err, tc.err)
				}
				return
			}
			if want := (auth.Credential{Username: "AWS", Password: canary}); got != want || !until.Equal(ends) || err != nil {
				t.Errorf("got %+v until %v, %v", got, until, err)
			}
		})
	}
}

// awsEnvironment makes the AWS SDK use a test's server and nothing else.
func awsEnvironment(t *testing.T, at string) {
	t.Helper()
	for name, value := range map[string]string{
		"AWS_ENDPOINT_URL": at, "AWS_ACCESS_KEY_ID": "AKIA", "AWS_SECRET_ACCESS_KEY": canary, "AWS_EC2_METADATA_DISABLED": "true",
		"AWS_CONFIG_FILE": os.DevNull, "AWS_SHARED_CREDENTIALS_FILE": os.DevNull,
	} {
		t.Setenv(name, value)
	}
}

func TestGoogle(t *testing.T) {
	for name, tc := range map[string]struct {
		host, answer string
		status       int
		err          string
	}{
		"token":   {"europe-docker.pkg.dev", `{"access_token":"` + canary + `","token_type":"Bearer","expires_in":3600}`, 200, ""},
		"refused": {"gcr.io", `{"error":"invalid_grant","error_description":"` + canary + `"}`, 400, "status 400"},
		"no JSON": {"gcr.io", canary, 200, "google"},
		"foreign": {"pkg.dev.example", "", 200, "no registry of Google's"},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(tc.status)
				io.WriteString(w, tc.answer)
			}))
			defer server.Close()
			t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", serviceAccount(t, server.URL))
			got, until, err := googleSource{Options{Host: tc.host, Proxy: direct, RootCAs: systems}}.get(t.Context())
			tellsNothing(t, err)
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Errorf("got %v, want %q", err, tc.err)
				}
				return
			}
			if want := (auth.Credential{Username: "oauth2accesstoken", Password: canary}); got != want || !until.After(time.Now()) || err != nil {
				t.Errorf("got %+v until %v, %v", got, until, err)
			}
		})
	}
	t.Run("no such file", func(t *testing.T) {
		t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", filepath.Join(t.TempDir(), "none"))
		if _, _, err := (googleSource{Options{Host: "gcr.io", Proxy: direct, RootCAs: systems}}).get(t.Context()); err == nil || !strings.Contains(err.Error(), "application default") {
			t.Errorf("got %v", err)
		}
	})
}

func serviceAccount(t *testing.T, at string) string {
	t.Helper()
	content, err := testkit.ServiceAccount(at)
	if err != nil {
		t.Fatal(err)
	}
	return write(t, filepath.Join(t.TempDir(), "key.json"), content, 0o600)
}

func TestCheck(t *testing.T) {
	for _, tc := range []struct {
		kind Kind
		host string
		ok   bool
	}{
		{Given, "registry.example", true},
		{DockerConfig, "registry.example", true},
		{ECR, "123456789012.dkr.ecr.eu-west-1.amazonaws.com", true},
		{ECR, "123456789012.dkr.ecr-fips.us-gov-west-1.amazonaws.com", true},
		{ECR, "123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn", true},
		{ECR, "123456789012.dkr-ecr.eu-west-1.on.aws", true},
		{ECR, "*.dkr.ecr.eu-west-1.amazonaws.com", true},
		{ECR, "public.ecr.aws", true},
		{ECR, "123456789012.dkr.ecr.eu-west-1.amazonaws.com.evil.example", false},
		{ECR, "12345.dkr.ecr.eu-west-1.amazonaws.com", false},
		{ECR, "docker.io", false},
		{Google, "gcr.io", true},
		{Google, "eu.gcr.io", true},
		{Google, "*.pkg.dev", true},
		{Google, "europe-docker.pkg.dev:443", true},
		{Google, "evilgcr.io", false},
		{Google, "pkg.dev.evil.example", false},
	} {
		if err := Check(tc.kind, tc.host); (err == nil) != tc.ok {
			t.Errorf("%s at %s: %v", tc.kind, tc.host, err)
		}
	}
}

// systems are the system's authorities.
func systems() *x509.CertPool { return nil }
