package e2e

import (
	"errors"
	"os"
	"os/exec"
	"testing"
)

// buildkit builds an image that is another one, and writes it as an OCI layout.
type buildkit struct{ tool }

func startBuildkit(t *testing.T, s *site, mirror string) session {
	t.Helper()
	b := buildkit{newTool(t, s, mirror)}
	b.start(t, b.write(t, "buildkitd.toml", b.setup(t, "buildkit")))
	return b
}

func (b buildkit) start(t *testing.T, config string) {
	t.Helper()
	snapshotter := "native"
	if overlayWorks(b.dir) {
		snapshotter = "overlayfs"
	}
	daemon := startDaemon(t, b.ns, "buildkitd", b.command(installed("buildkitd"), "--config", config, "--root", b.path("root"), "--addr", b.address(),
		"--containerd-worker=false", "--oci-worker-net=host", "--oci-worker-snapshotter", snapshotter))
	daemon.waitReady(t, func() bool {
		_, err := run(b.ns, b.buildctl("debug", "workers"))
		return err == nil
	})
}

func (b buildkit) address() string { return "unix://" + b.path("buildkit.sock") }

func (b buildkit) buildctl(args ...string) *exec.Cmd {
	return b.command(installed("buildctl"), append([]string{"--addr", b.address()}, args...)...)
}

func (b buildkit) pull(i *image) error {
	context, out := b.path("context"), b.path("image")
	if err := os.MkdirAll(context, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(b.path("context/Dockerfile"), []byte("FROM "+i.name()+"\n"), 0o644); err != nil {
		return err
	}
	if _, err := run(b.ns, b.buildctl("build", "--progress", "plain", "--frontend", "dockerfile.v0", "--local", "context="+context,
		"--local", "dockerfile="+context, "--output", "type=oci,tar=false,dest="+out)); err != nil {
		return err
	}
	// The config is written anew, with the time of the build.
	return errors.Join(checkLayout(out, i.pulled()[1:]), os.RemoveAll(out))
}
