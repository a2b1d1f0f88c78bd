package e2e

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hubcap/e2e/fakehub"
	"hubcap/e2e/testkit"
)

// readingRoutes returns the routes of an OpenAPI document that change nothing, with an image for those that are about one. Left out are
// the stream of events, which has no end, and those about one job.
func readingRoutes(t *testing.T, document []byte, image string) (all []string) {
	var d struct {
		Paths map[string]map[string]struct{ Parameters []struct{ Name string } }
	}
	if err := json.Unmarshal(document, &d); err != nil || len(d.Paths) == 0 {
		t.Fatalf("%v: %s", err, document)
	}
	for path, methods := range d.Paths {
		get, ok := methods["get"]
		if !ok || strings.Contains(path, "{") || strings.HasSuffix(path, "/events") {
			continue
		}
		for _, p := range get.Parameters {
			if p.Name == "ref" {
				path += "?ref=" + url.QueryEscape(image)
			}
		}
		all = append(all, strings.TrimPrefix(path, "/"))
	}
	return all
}

// TestCanary has a box use a credential of every kind, its own and a client's, and looks for them in what it tells: its log, metrics,
// settings, profiles and errors, and its files. A profile should hold nothing but names of functions and numbers; this is where it would
// show if one came to hold more.
func TestCanary(t *testing.T) {
	need(t)
	const amazon, google = "123456789012.dkr.ecr.eu-west-1.amazonaws.com", "gcr.io"
	s := newSiteWith(t, []string{"quay.io", "ghcr.io", amazon, google, "registry.example.com"})
	users := map[string]string{
		"given": "canary-given", "token": "canary-token", "config": "canary-config", "AWS": "canary-amazon", "oauth2accesstoken": "canary-google", "alice": "canary-alice",
	}
	s.hub.Set(func(o *fakehub.Options) { o.Users = users })
	inside := s.trusting(t)
	refresh := inside.token(t, "token", users["token"], "refresh_token", url.Values{"offline_token": {"true"}})
	hers := inside.token(t, "alice", users["alice"], "token", url.Values{"scope": {"repository:alice/app:pull"}})

	dir, dataDir := scratch(t), scratch(t)
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("config.json", fmt.Sprintf(`{"auths":{"ghcr.io":{"auth":%q}}}`, base64.StdEncoding.EncodeToString([]byte("config:"+users["config"]))))
	s.serve(t, "127.0.0.1:7001", "application/x-amz-json-1.1", fmt.Sprintf(`{"authorizationData":[{"authorizationToken":%q,"expiresAt":%d}]}`,
		base64.StdEncoding.EncodeToString([]byte("AWS:"+users["AWS"])), time.Now().Add(12*time.Hour).Unix()))
	s.serve(t, "127.0.0.1:7002", "application/json", fmt.Sprintf(`{"access_token":%q,"token_type":"Bearer","expires_in":3600}`, users["oauth2accesstoken"]))
	cert, key := s.certify(t)
	account, err := testkit.ServiceAccount("http://127.0.0.1:7002")
	if err != nil {
		t.Fatal(err)
	}
	settings := []string{
		"HUBCAP_LOG_LEVEL=debug", "HUBCAP_PPROF=true", "HUBCAP_AUTH_LISTEN=127.0.0.1:5443", "HUBCAP_AUTH_TLS_CERT_FILE=" + cert, "HUBCAP_AUTH_TLS_KEY_FILE=" + key,
		"DOCKER_CONFIG=" + dir, "GOOGLE_APPLICATION_CREDENTIALS=" + write("google.json", account),
		"AWS_ENDPOINT_URL=http://127.0.0.1:7001", "AWS_ACCESS_KEY_ID=AKIA", "AWS_SECRET_ACCESS_KEY=canary-secret-key", "AWS_EC2_METADATA_DISABLED=true",
		"AWS_CONFIG_FILE=" + os.DevNull, "AWS_SHARED_CREDENTIALS_FILE=" + os.DevNull,
	}
	paths := map[string]string{}
	for n, one := range []struct{ host, user, repository, how string }{
		{dockerHub, "given", "given/app", "USERNAME=given PASSWORD=" + users["given"]},
		{"quay.io", "token", "token/app", "TOKEN_FILE=" + write("token", refresh)},
		{"ghcr.io", "config", "config/app", "CREDENTIALS=docker-config"},
		{amazon, "AWS", "amazon/app", "CREDENTIALS=ecr"},
		{google, "oauth2accesstoken", "google/app", "CREDENTIALS=google"},
		{"registry.example.com", "alice", "alice/app", "VISIBILITY=passthrough"},
	} {
		i := bigImage(one.repository, 100_000)
		s.publish(i)
		s.hub.SetPrivate(one.repository, one.user)
		paths[one.user] = "/v2/" + one.host + strings.TrimPrefix(manifestPath(i), "/v2")
		all := "HOST=" + one.host + " PRIVATE_CIDRS=127.0.0.0/8 CA_FILE=" + s.caFile + " TOKEN_HOSTS=auth.docker.io " + one.how
		if !strings.Contains(all, "VISIBILITY=") {
			all += " VISIBILITY=shared SHARED_REPOSITORIES=*/app"
		}
		for setting := range strings.FieldsSeq(all) {
			settings = append(settings, fmt.Sprintf("HUBCAP_UPSTREAM_%d_%s", n, setting))
		}
	}
	h := s.startHubcap(t, dataDir, settings...)

	told := map[string][]byte{}
	for user, path := range paths {
		base, header := "http://"+mirror, http.Header{}
		if user == "alice" {
			base, header = "https://"+loginBox, http.Header{"Authorization": {"Bearer " + hers}}
		}
		if status, body := inside.get(t, base+path, header); status != http.StatusOK {
			t.Fatalf("%s: %d %s", path, status, body)
		}
		for name, to := range map[string]string{"none": base + path + "-none", "another's": base + strings.Replace(path, "/app/", "/another/", 1)} {
			status, body := inside.get(t, to, header)
			if status < 400 {
				t.Errorf("%s: %d", to, status)
			}
			told["error of "+user+", "+name] = body
		}
	}
	for user := range paths {
		asUser := func(r *fakehub.Request) bool {
			return r.Kind == fakehub.KindManifest && strings.HasPrefix(r.Authorization, "Bearer ") && r.Status == http.StatusOK
		}
		if s.hub.Count(asUser, fakehub.OfRepo(strings.Split(strings.SplitN(paths[user], "/", 4)[3], "/manifests/")[0])) == 0 {
			t.Errorf("the credential of %s was not used", user)
		}
	}
	s.hub.Down()
	_, told["error of an outage"] = inside.get(t, "http://"+mirror+paths["given"]+"-more", nil)

	shown, err := os.ReadFile(filepath.Join(dataDir, "admin-token"))
	if err != nil {
		t.Fatal(err)
	}
	asOperator := http.Header{"Authorization": {"Bearer " + strings.TrimSpace(string(shown))}}
	_, document := inside.get(t, "http://"+admin+"/api/v1/openapi.json", asOperator)
	image := strings.Replace(strings.TrimPrefix(paths["given"], "/v2/"), "/manifests/", ":", 1)
	for _, page := range append(readingRoutes(t, document, image),
		"api/v1/openapi.json", "api/v1/requests?limit=2000", "api/v1/images?limit=1000", "metrics", "admin/config", "debug/pprof/", "debug/pprof/cmdline", "debug/pprof/profile?seconds=1", "debug/pprof/trace?seconds=1",
		"debug/pprof/heap", "debug/pprof/heap?debug=1", "debug/pprof/allocs", "debug/pprof/allocs?debug=1", "debug/pprof/block?debug=1", "debug/pprof/mutex?debug=1",
		"debug/pprof/threadcreate?debug=1", "debug/pprof/goroutine", "debug/pprof/goroutine?debug=1", "debug/pprof/goroutine?debug=2",
	) {
		status, body := inside.get(t, "http://"+admin+"/"+page, asOperator)
		if status != http.StatusOK || len(body) == 0 {
			t.Errorf("%s: %d, %d bytes", page, status, len(body))
		}
		told[page] = unzipped(t, body)
	}
	h.terminate(t)
	told["log"] = h.log.Bytes()
	readFiles(t, dataDir, told)
	if !bytes.Contains(told["debug/pprof/goroutine?debug=2"], []byte("hubcap/cache.")) || !bytes.Contains(told["log"], []byte("given/app")) {
		t.Error("profiles and log are not what they seem")
	}

	secrets := []string{refresh, hers, "canary-secret-key"}
	for user, password := range users {
		secrets = append(secrets, password, base64.StdEncoding.EncodeToString([]byte(user+":"+password)))
	}
	for where, content := range told {
		for _, secret := range secrets {
			if bytes.Contains(content, []byte(secret)) {
				t.Errorf("%s is in %s", secret, where)
			}
		}
	}
	if n := s.hub.AuthorizationLeaks(); n != 0 {
		t.Errorf("the CDN saw %d Authorization headers", n)
	}
}

// insider is an HTTP client inside that trusts the site's certificates, and finds the box and the stand-in by their names.
type insider struct{ http.Client }

func (s *site) trusting(t *testing.T) *insider {
	t.Helper()
	transport := &http.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		_, port, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		return s.ns.dial(ctx, network, net.JoinHostPort("127.0.0.1", port))
	}}
	transport.DialTLSContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := transport.DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		trusted, err := os.ReadFile(s.caFile) // it grows
		if err != nil {
			return nil, err
		}
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(trusted)
		host, _, _ := net.SplitHostPort(address)
		return tls.Client(conn, &tls.Config{RootCAs: pool, ServerName: host}), nil
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &insider{http.Client{Transport: transport}}
}

func (c *insider) get(t *testing.T, from string, header http.Header) (status int, body []byte) {
	t.Helper()
	request, err := http.NewRequest(http.MethodGet, from, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header = header
	response, err := c.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err = io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, body
}

// token asks the stand-in's token service, and returns one field of the answer.
func (c *insider) token(t *testing.T, user, password, field string, query url.Values) string {
	t.Helper()
	query.Set("service", "registry.docker.io")
	basic := "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
	_, body := c.get(t, "https://"+fakehub.DockerHub().Token+"/token?"+query.Encode(), http.Header{"Authorization": {basic}})
	var answer map[string]any
	mustUnmarshal(body, &answer)
	return fmt.Sprint(answer[field])
}

// serve gives one answer to everything, inside.
func (s *site) serve(t *testing.T, address, mediaType, body string) {
	t.Helper()
	listener, err := s.ns.listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", mediaType)
		_, _ = io.WriteString(w, body)
	})}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
}

func unzipped(t *testing.T, content []byte) []byte {
	t.Helper()
	if !bytes.HasPrefix(content, []byte{0x1f, 0x8b}) {
		return content
	}
	r, err := gzip.NewReader(bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return plain
}

// readFiles adds the content of all files below a directory.
func readFiles(t *testing.T, dir string, into map[string][]byte) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() {
			into[path], err = os.ReadFile(path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
