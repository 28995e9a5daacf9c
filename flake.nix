{
  description = "Pianola: a local-first web app framework in one readable file";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs = { self, nixpkgs }:
    let
      systems = [ "x86_64-linux" "aarch64-linux" "x86_64-darwin" "aarch64-darwin" ];
      each = f: nixpkgs.lib.genAttrs systems (system: f nixpkgs.legacyPackages.${system});
    in {
      # `nix develop` gives Python, uv and make, and the C++ runtime that the prebuilt wheels link against.
      devShells = each (pkgs: {
        default = pkgs.mkShell {
          packages = [ pkgs.python312 pkgs.uv pkgs.gnumake ];
          LD_LIBRARY_PATH = pkgs.lib.makeLibraryPath [ pkgs.stdenv.cc.cc.lib pkgs.zlib ];
          UV_PYTHON_DOWNLOADS = "never";
          shellHook = "echo 'make run starts Pianola, make test tests it.'";
        };
      });
    };
}
