package upstream

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"hubcap/e2e/fakehub"
	"hubcap/e2e/testkit"
)

func TestProbe(t *testing.T) {
	hub := fakehub.Start(t, fakehub.Options{RateLimit: 1, Latency: 10 * time.Millisecond})
	client := newFixture(t, hub.RegistryURL(), trusting(t, hub.TokenURL()))
	for range 3 {
		p, err := client.Probe(within(t))
		if err != nil || p.Took < 10*time.Millisecond || time.Since(p.Date).Abs() > testkit.Patience {
			t.Errorf("%+v, %v", p, err)
		}
	}
	other := httptest.NewServer(http.NotFoundHandler())
	defer other.Close()
	_, err := newFixture(t, other.URL).Probe(within(t))
	wantKind(t, err, NotFound)
}

// TestCheckLogin shows right and wrong passwords, by a token service and by
// Basic, and a source that gives none. No repository is asked for.
func TestCheckLogin(t *testing.T) {
	basic := func(user, password string) *httptest.Server {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if u, p, _ := r.BasicAuth(); u != user || p != password {
				w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
				w.WriteHeader(http.StatusUnauthorized)
			}
		}))
		t.Cleanup(s.Close)
		return s
	}
	hub := func(password string) *fakehub.Hub {
		return fakehub.Start(t, fakehub.Options{Users: map[string]string{boxUser: password}})
	}
	for _, right := range []bool{true, false} {
		password := "another"
		if right {
			password = canary
		}
		h := hub(password)
		for name, client := range map[string]*fixture{
			"token": newFixture(t, h.RegistryURL(), trusting(t, h.TokenURL()), withCredentials),
			"basic": newFixture(t, basic(boxUser, password).URL, withCredentials),
		} {
			err := client.CheckLogin(within(t))
			if right && err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if !right {
				wantKind(t, err, Denied)
			}
			client.wantNoSecrets(t, err)
		}
		for _, r := range h.Log() {
			if strings.Contains(r.Query, "repository") {
				t.Errorf("%s %s was asked for", r.Method, r.Query)
			}
		}
	}
	client := newFixture(t, hub("x").RegistryURL(), func(o *Options) {
		o.Username, o.Password, o.PasswordFile = boxUser, canary, "/does/not/exist"
	})
	if err := client.CheckLogin(within(t)); err == nil {
		t.Error("a file that is not there is no error")
	}
}
