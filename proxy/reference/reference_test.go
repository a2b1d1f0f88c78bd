package reference

import "testing"

const d = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

// TestParse reads references as people write them, and writes each back in full.
func TestParse(t *testing.T) {
	for _, row := range []struct{ in, def, want string }{
		{"nginx", DockerHub, "docker.io/library/nginx:latest"},
		{"nginx:1.27", DockerHub, "docker.io/library/nginx:1.27"},
		{"index.docker.io/nginx", DockerHub, "docker.io/library/nginx:latest"},
		{"grafana/grafana", DockerHub, "docker.io/grafana/grafana:latest"},
		{"nginx@" + d, DockerHub, "docker.io/library/nginx@" + d},
		{"nginx:1.27@" + d, DockerHub, "docker.io/library/nginx:1.27@" + d},
		{"ghcr.io/acme/app:v1", DockerHub, "ghcr.io/acme/app:v1"},
		{"localhost/app", DockerHub, "localhost/app:latest"},
		{"registry.lan:5000/a/b/c:x", DockerHub, "registry.lan:5000/a/b/c:x"},
		{"acme/app", "ghcr.io", "ghcr.io/acme/app:latest"},
		{"app", "registry.lan:5000", "registry.lan:5000/app:latest"},
		{"docker.io/nginx", "ghcr.io", "docker.io/library/nginx:latest"},
	} {
		got, err := Parse(row.in, row.def)
		if err != nil || got.String() != row.want {
			t.Errorf("%s at %s is %s, %v; want %s", row.in, row.def, got, err, row.want)
			continue
		}
		if again, err := Parse(got.String(), row.def); err != nil || again != got {
			t.Errorf("%s reads as %+v, %v", got, again, err)
		}
	}
}

// TestParseRefuses reads what is no reference.
func TestParseRefuses(t *testing.T) {
	for _, in := range []string{"", " ", ":", "Nginx", "nginx:", "nginx@sha256:12", "a//b", "/nginx", "nginx:ä", "https://ghcr.io/a", "a:b:c", "../x"} {
		if got, err := Parse(in, DockerHub); err == nil {
			t.Errorf("%q reads as %+v", in, got)
		}
	}
}
