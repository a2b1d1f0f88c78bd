package e2e

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// dockerHub is the registry of images that name none.
const dockerHub = "docker.io"

// testRegistry is a registry that only hubcap knows how to reach.
const testRegistry = "registry.test"

// securedMirror is the mirror port of a box that serves TLS.
const securedMirror = boxName + ":5000"

// setup is how a client is configured for its mirror: the text that the box has at /setup, exactly as it comes. Without a mirror it is empty.
func (c tool) setup(t *testing.T, client string) string {
	t.Helper()
	if c.mirror == "" {
		return ""
	}
	return c.ask(t, "/setup?client="+client)
}

// ask is what the mirror answers. Its certificate is not checked: it is from there that the client learns whom to trust.
func (c tool) ask(t *testing.T, path string) string {
	t.Helper()
	url, asker := "http://"+c.mirror+path, c.ns.httpClient(t)
	if c.mirror == securedMirror {
		url = "https://" + c.mirror + path
		asker.Transport = &http.Transport{
			DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
				return c.ns.dial(ctx, network, mirror)
			},
			TLSClientConfig:   &tls.Config{InsecureSkipVerify: true},
			DisableKeepAlives: true,
		}
	}
	response, err := asker.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("%s: %d, %v\n%s", path, response.StatusCode, err, text)
	}
	return string(text)
}

// The names in the commands of /setup that stand for what a user pulls.
const (
	exampleImage = "/ghcr.io/owner/name:tag"
	exampleChart = "/ghcr.io/owner/chart"
)

// shell runs commands, with the clients that .ci/run has installed in the path.
func (c tool) shell(commands string) *exec.Cmd {
	cmd := c.command("sh", "-ec", "PATH="+filepath.Dir(installed("helm"))+":$PATH\n"+commands)
	cmd.Dir = c.dir
	return cmd
}

// replaced puts other words in the place of some, and more behind the last of them.
func replaced(commands string, more string, oldnew ...string) string {
	return strings.TrimSpace(strings.NewReplacer(oldnew...).Replace(commands)) + " " + more
}
