package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// dockerHub is the registry of images that name none.
const dockerHub = "docker.io"

// testRegistry is a registry that only hubcap knows how to reach.
const testRegistry = "registry.test"

// registries are those that the clients are told to look for in the mirror.
var registries = []string{dockerHub, testRegistry}

// dockerdConfig, containerdHosts and containersRegistries are the one place that says how the clients are pointed at a mirror.

func dockerdConfig(_ *testing.T, mirrors ...string) string {
	var urls []string
	for _, mirror := range mirrors {
		if mirror != "" {
			urls = append(urls, fmt.Sprintf(`"http://%s"`, mirror))
		}
	}
	return fmt.Sprintf(`{"registry-mirrors": [%s]}`, strings.Join(urls, ", "))
}

// containerdHosts leaves the registry itself as the last resort, as users do: so a bypass is possible, and is seen.
func containerdHosts(_ *testing.T, registry, mirror string) string {
	server := registry
	if registry == dockerHub {
		server = "registry-1.docker.io"
	}
	return fmt.Sprintf("server = %q\n[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n", "https://"+server, "http://"+mirror)
}

func containersRegistries(_ *testing.T, mirror string) string {
	if mirror == "" {
		return ""
	}
	var config strings.Builder
	for _, registry := range registries {
		location := mirror
		if registry != dockerHub {
			location += "/" + registry
		}
		fmt.Fprintf(&config, "[[registry]]\nprefix = %q\nlocation = %q\n[[registry.mirror]]\nlocation = %q\ninsecure = true\n\n", registry, registry, location)
	}
	return config.String()
}
