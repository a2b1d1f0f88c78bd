package e2e

import (
	"io"
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

// setup is how a client is configured for its mirror: the text that the box has at /setup, exactly as it comes. Without a mirror it is empty.
func (c tool) setup(t *testing.T, client string) string {
	t.Helper()
	if c.mirror == "" {
		return ""
	}
	response, err := c.ns.httpClient(t).Get("http://" + c.mirror + "/setup?client=" + client)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("/setup?client=%s: %d, %v\n%s", client, response.StatusCode, err, text)
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
